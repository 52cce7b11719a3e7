"""`to_zarr` and `from_zarr`: what of an estimator goes to a model, and back."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any, Self

import dask.array as da
import numpy as np
from sklearn.utils.validation import check_is_fitted

ARRAYS = (
    "labels",
    "sizes",
    "cluster_centers",
    "coarse_centers",
    "parents",
    "offset",
    "cluster_inertia",
    "compared",
    "prices",
    "coarse_prices",
    "axes",
)
"""Arrays of a stored model; with a trailing underscore, fitted attributes. Early models
have no `cluster_inertia`, no prices: their centers are free; and no axes."""

PRICED = {"prices": "cluster_centers", "coarse_prices": "coarse_centers"}
"""Prices, and the centers that have them."""

SCALARS = ("inertia", "n_clusters", "n_features_in", "n_passes")
"""Fitted attributes stored as JSON."""


class ZarrPersistence:
    """`to_zarr` and `from_zarr` for an estimator."""

    def to_zarr(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Save the fitted model as a Zarr group; it appears when it is complete.

        Parameters
        ----------
        path : str or path-like
            Local path or fsspec URL.
        overwrite : bool, default=False

        Raises
        ------
        FileExistsError
            If something is at `path` and `overwrite` is false.
        """
        from hkmeans_dask.storage import models

        check_is_fitted(self)
        model: Any = self
        arrays = {
            name: getattr(model, f"{name}_")
            for name in ARRAYS
            if hasattr(model, f"{name}_")
        }
        parameters = model.get_params(deep=False)
        if model.work_dir is not None:
            parameters["work_dir"] = os.fspath(model.work_dir)
        if not isinstance(model.init, str):
            arrays["init"] = np.asarray(model.init)
            parameters["init"] = None
        if not isinstance(model.random_state, (int, np.integer)):
            parameters["random_state"] = None  # what it drew is the seed
        attributes = {
            "parameters": parameters,
            "fitted": {name: getattr(model, f"{name}_") for name in SCALARS},
            "feature_names_in": list(getattr(model, "feature_names_in_", [])),
            "lazy_labels": isinstance(model.labels_, da.Array),
            "seconds": model._seconds,
            **model._origin,
        }
        models.save(path, arrays, attributes, overwrite=overwrite)

    @classmethod
    def from_zarr(cls, path: str | os.PathLike[str]) -> Self:
        """Load a model that `to_zarr` or the command line saved.

        Parameters
        ----------
        path : str or path-like
            Local path or fsspec URL.

        Returns
        -------
        model : HierarchicalKMeans
            Fitted. `labels_` of lazy X is a dask array that reads `path`.

        Raises
        ------
        FileNotFoundError
            If nothing is there.
        ValueError
            If what is there is no complete model.
        """
        from hkmeans_dask.storage import models

        arrays, attributes = models.load(path, lazy=("labels",))
        parameters, wrote = attributes.pop("parameters"), attributes.pop("hkmeans_dask")
        known: Any = cls
        if unknown := sorted(parameters.keys() - set(known._get_param_names())):
            raise ValueError(
                f"{path} has parameters that are not known here: {', '.join(unknown)}. "
                f"Version {wrote} of hkmeans_dask wrote it, this is "
                f"{version('hkmeans_dask')}. Upgrade to read it."
            )
        parameters["init"] = arrays.pop("init", parameters["init"])
        model: Any = cls(**parameters)
        if not attributes.pop("lazy_labels"):
            arrays["labels"] = arrays["labels"].compute(scheduler="threads")
        for name, centers in PRICED.items():
            free = np.zeros(len(arrays[centers]), arrays[centers].dtype)
            arrays.setdefault(name, free)
        no_axes = np.empty((len(arrays["offset"]), 0), arrays["cluster_centers"].dtype)
        arrays.setdefault("axes", no_axes)
        for name, value in (arrays | attributes.pop("fitted")).items():
            setattr(model, f"{name}_", value)
        if names := attributes.pop("feature_names_in"):
            model.feature_names_in_ = np.array(names, object)
        model._n_features_out = model.n_clusters_
        model._seconds = attributes.pop("seconds", {})
        model._origin = attributes
        loaded: Self = model
        return loaded

"""DataArrays of xarray: labels come off at the border, and others go on.

The stages and `reduction` see plain arrays. Of a DataArray they get the data, with the
features where `feature_axis` says, or in rows if it is a name; what comes of it becomes
a DataArray again, in which one dimension replaces another::

    X (time, voxel)    -- transform -->          (time, cluster)
    (time, cluster)    -- inverse_transform -->  (time, voxel)
    X (time, voxel)    -- predict -->            (voxel)

xarray is optional: until a DataArray comes, nothing here imports it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from hkmeans_dask.inputs.arrays import lazily
from hkmeans_dask.inputs.checks import CLUSTER, COARSE_CLUSTER

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from xarray import Coordinates, DataArray

    from hkmeans_dask.kmeans.kernels import Index

    Plain = tuple[Any, Callable[[Any], Any]]


@dataclass(frozen=True)
class Dimension:
    """A dimension and its coordinates."""

    name: Hashable
    coords: Coordinates | None = None

    @property
    def index(self) -> Any:
        """The labels of its positions (a pandas Index), if it has any."""
        return None if self.coords is None else self.coords.indexes.get(self.name)

    def label(self, labels: Any) -> DataArray:
        """Make a DataArray of one value, the label, for each position."""
        from xarray import DataArray

        return DataArray(labels, self.coords, [self.name], "labels")


@dataclass(frozen=True)
class Given:
    """A DataArray that came in, and which of its two dimensions is replaced."""

    array: DataArray
    replaced: Hashable
    axis: int
    """Where the replaced dimension is in `data`."""

    @property
    def kept(self) -> Hashable:
        """The dimension that stays: that of the samples."""
        (kept,) = set(self.array.dims) - {self.replaced}
        return kept

    @property
    def data(self) -> Any:
        """The values, NumPy or dask, with their axes in place."""
        return self.array.transpose(*self._order(self.replaced)).data

    @property
    def dimension(self) -> Dimension:
        """The replaced dimension, with the coordinates that it alone has."""
        return Dimension(
            self.replaced, self._coords(lambda dims: dims == (self.replaced,))
        )

    def check(self, expected: Dimension | None, by: Dimension | None = None) -> None:
        """Refuse other labels than the expected ones, and a name that is taken.

        Another number of labels is left to the checks of shapes.
        """
        if by is not None and by.name == self.kept:
            raise ValueError(
                f"{by.name!r} is the dimension of X's samples, but the result needs "
                f"the name. Rename it: X.rename({by.name}='sample')."
            )
        found = self.array.indexes.get(self.replaced)
        wanted = expected.index if expected else None
        if found is None or wanted is None or len(found) != len(wanted):
            return
        if not found.equals(wanted):
            at = int(np.argmax(found != wanted))
            one = slice(at, at + 1)
            raise ValueError(
                f"X has {found[one].tolist()} at position {at} of {self.replaced!r}, "
                f"but the model {wanted[one].tolist()}. Put X into the order of the "
                "model, or take the labels off: "
                f"X.reset_index({self.replaced!r}, drop=True)."
            )

    def relabel(self, values: Any, by: Dimension) -> DataArray:
        """Make a DataArray of what came of `data`: `by` replaces a dimension."""
        from xarray import DataArray

        coords = self._coords(lambda dims: self.replaced not in dims)
        order, array = self._order(by.name), self.array
        result = DataArray(values, coords, order, attrs=array.attrs)
        result.name = array.name  # given as None it would be that of the dask array
        dims = [by.name if dim == self.replaced else dim for dim in self.array.dims]
        return result.assign_coords(by.coords).transpose(*dims)

    def _coords(self, keep: Callable[[tuple[Hashable, ...]], bool]) -> Coordinates:
        """Coordinates, with their indexes, of which `keep` takes the dimensions."""
        coords = self.array.coords
        others = [name for name in coords if not keep(coords[name].dims)]
        return coords.to_dataset().drop_vars(others).coords

    def _order(self, name: Hashable) -> tuple[Hashable, Hashable]:
        return (name, self.kept) if self.axis == 0 else (self.kept, name)


def axis_of(feature_axis: int | str) -> int:
    """Where the stages get features: in rows (0) if their dimension is named."""
    return 1 if feature_axis == 1 else 0


def is_dataarray(X: Any) -> bool:
    """Whether X is a DataArray, without importing xarray to find out."""
    xarray = sys.modules.get("xarray")
    return xarray is not None and isinstance(X, xarray.DataArray)


def take(
    X: Any, feature_axis: int | str, dimension: Hashable | None = None
) -> Given | None:
    """Take a DataArray apart; None for other kinds of X.

    Parameters
    ----------
    X : any
    feature_axis : int or str
        Where the features of X are.
    dimension : str, optional
        To be replaced; that of the features if not given.

    Raises
    ------
    TypeError
        If `feature_axis` is a name, and X has none.
    ValueError
        If X has not two dimensions, or none of the name.
    """
    if not is_dataarray(X):
        if isinstance(feature_axis, str):
            raise TypeError(
                f"feature_axis={feature_axis!r} names a dimension of an "
                f"xarray.DataArray, but X is a {type(X).__name__}. Pass a DataArray, "
                "or 0 or 1 as feature_axis."
            )
        return None
    if X.ndim != 2:
        raise ValueError(
            f"X has the dimensions {X.dims}, but should have two: features and "
            "samples. Stack several into one, e.g. X.stack(voxel=('x', 'y', 'z')), or "
            "add one, e.g. X.expand_dims('sample')."
        )
    if dimension is None:
        named = isinstance(feature_axis, str)
        dimension = feature_axis if named else X.dims[axis_of(feature_axis)]
    if dimension not in X.dims:
        what = "clusters" if dimension == CLUSTER else f"{feature_axis=}"
        raise ValueError(
            f"X has the dimensions {X.dims}, and none is {dimension!r} ({what}). "
            f"Rename the one that is meant, X.rename(...={dimension!r})."
        )
    return Given(X, dimension, axis_of(feature_axis))


def unlabel(X: Any, feature_axis: int | str) -> tuple[Any, Dimension | None]:
    """X without its labels, and the dimension of its features if X is a DataArray."""
    given = take(X, feature_axis)
    if given is None:
        return lazily(X, axis_of(feature_axis)), None
    return given.data, given.dimension


class Labelled:
    """What an estimator does with the DataArrays that it gets and gives."""

    if TYPE_CHECKING:
        feature_axis: int | str
        labels_: Any
        sizes_: Index
        parents_: Index
        coarse_sizes_: Index
        n_features_in_: int

    _features: Dimension | None = None
    """The feature dimension of fit, if X was a DataArray."""

    @property
    def _axis(self) -> int:
        return axis_of(self.feature_axis)

    def labels_dataarray(self, X: Any = None) -> DataArray:
        """Give `labels_` as a DataArray on the feature coordinate; computes nothing.

        Where several dimensions were stacked into that of the features, ``unstack``
        makes a label volume of it.

        Parameters
        ----------
        X : DataArray, optional
            Has the feature coordinates; those of fit if not given. Needed where these
            are not known: the model was loaded from Zarr, or fitted to another kind of
            array.

        Returns
        -------
        labels : DataArray of shape (n_features_in_,), int32
            With a dask array in it where `labels_` is one.

        Raises
        ------
        ImportError
            If xarray is not installed.
        ValueError, TypeError
            If X is needed, is no DataArray, or has other features.
        """
        try:
            import xarray  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "labels_dataarray needs xarray, which cannot be imported. Install it, "
                "pip install 'hkmeans_dask[xarray]', or use labels_, the same as an "
                "array."
            ) from error
        check_is_fitted(self)
        if X is not None:
            return self._features_of(X).label(self.labels_).copy()
        if self._features is None:
            raise ValueError(
                "The feature coordinates are not known: fit did not get a DataArray, "
                "or the model was loaded. Pass the DataArray that has them, "
                "labels_dataarray(X), or fit again with it."
            )
        return self._features.label(self.labels_).copy()

    def _features_of(self, X: Any) -> Dimension:
        """Feature dimension of a DataArray with the features of fit."""
        given = take(X, self.feature_axis)
        if given is None:
            raise TypeError(
                f"X should be an xarray.DataArray. A {type(X).__name__} was given."
            )
        given.check(self._features)
        n_features = given.array.sizes[given.replaced]
        if n_features != self.n_features_in_:
            raise ValueError(
                f"X has {n_features} features, but HierarchicalKMeans is expecting "
                f"{self.n_features_in_} features as input."
            )
        return given.dimension

    def _plain_features(self, X: Any, level: str) -> Plain:
        """Take labels off X of `transform`; give what puts others on the result."""
        given = take(X, self.feature_axis)
        if given is None:
            return lazily(X, axis_of(self.feature_axis)), _as_it_is
        clusters = self._clusters(level)
        given.check(self._features, clusters)
        return given.data, partial(given.relabel, by=clusters)

    def _plain_clusters(self, X_red: Any) -> Plain:
        """Do the same for `inverse_transform`."""
        given = take(X_red, self.feature_axis, CLUSTER)
        if given is None:
            return lazily(X_red, axis_of(self.feature_axis)), _as_it_is
        named = isinstance(self.feature_axis, str)
        unknown = Dimension(self.feature_axis if named else "feature")
        features = self._features or unknown
        given.check(self._clusters("fine"), features)
        return given.data, partial(given.relabel, by=features)

    def _plain_new_features(self, X: Any) -> Plain:
        """Do the same for `predict`."""
        given = take(X, self.feature_axis)
        if given is None:
            return lazily(X, axis_of(self.feature_axis)), _as_it_is
        return given.data, given.dimension.label

    def _clusters(self, level: str) -> Dimension:
        """Give the dimension of the clusters that `transform` gives."""
        from xarray import Coordinates

        if level == "coarse":
            name, columns = COARSE_CLUSTER, {"cluster_size": self.coarse_sizes_}
        else:
            name = CLUSTER
            columns = {"cluster_size": self.sizes_, "parent": self.parents_}
        coords = {key: (name, values.copy()) for key, values in columns.items()}
        numbers = np.arange(len(columns["cluster_size"]))
        return Dimension(name, Coordinates({name: numbers} | coords))


def _as_it_is(result: Any) -> Any:
    return result

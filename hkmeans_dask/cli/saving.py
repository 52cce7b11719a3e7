"""Where commands write: checked at first, and elsewhere where it fails at last."""

from __future__ import annotations

import os
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hkmeans_dask.estimator import HierarchicalKMeans


def save(model: HierarchicalKMeans, model_path: str, *, overwrite: bool) -> None:
    """Save a model, elsewhere where its place fails: it may have taken days.

    Raises
    ------
    OSError
        That names where the model is.
    """
    try:
        model.to_zarr(model_path, overwrite=overwrite)
    except OSError as error:
        if model.work_dir is not None:
            remedy = f"Run the command again: the fit is done, in {model.work_dir}."
            raise OSError(f"{error} {remedy}") from error
        elsewhere = _save_elsewhere(model, model_path)
        if elsewhere is None:
            raise
        raise OSError(f"{error} The model is in {elsewhere} instead.") from error


def _save_elsewhere(model: HierarchicalKMeans, model_path: str) -> Path | None:
    """Save a model in this folder, or else where temporary files are."""
    name = f"{Path(model_path).name}-{uuid.uuid4().hex[:8]}"
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        with suppress(OSError):
            model.to_zarr(folder / name)
            return folder / name
    return None


def check_output(output: str, overwrite: bool, needed: Sequence[str]) -> None:
    """Refuse an output that is there, cannot be, or would replace what is read."""
    from hkmeans_dask.storage import opening, outputs

    outputs.check_free(output, overwrite=overwrite)
    place = _real(opening.location(output))
    for url in needed:
        if f"{_real(opening.location(url))}/".startswith(f"{place}/"):
            raise ValueError(
                f"{output} would replace {url}, which the command reads. Choose "
                "another output."
            )
    folder = next(part for part in Path(place).parents if part.exists())
    if "://" not in place and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(
            f"{output} cannot be written: {folder} is not a folder that may be "
            "written to. Choose another output."
        )


def _real(place: str) -> str:
    """Resolve links and dots: two paths may name one folder."""
    return place.rstrip("/") if "://" in place else os.path.realpath(place)

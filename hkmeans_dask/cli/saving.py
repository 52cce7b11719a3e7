"""Models that commands save: elsewhere, where the place that was named fails."""

from __future__ import annotations

import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

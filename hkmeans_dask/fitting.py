"""The stages of a fit in their order, gone through again from where they stopped.

Every stage looks for what is finished in the workspace before it computes, so going on
after a crash and going on after a damaged file are the same: run the stages again.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import check_random_state

from hkmeans_dask.execution import phase
from hkmeans_dask.hierarchy import Hierarchy
from hkmeans_dask.inputs import identify
from hkmeans_dask.stages.coarse import train_coarse
from hkmeans_dask.stages.fine import train_fine
from hkmeans_dask.stages.label import label_features
from hkmeans_dask.stages.partition import partition
from hkmeans_dask.stages.refine import begin_with, refine
from hkmeans_dask.stages.sample import keep_training_rows
from hkmeans_dask.work_dir import durable, temporary
from hkmeans_dask.workspace import Damaged, OnDisk

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from hkmeans_dask.execution import Runner
    from hkmeans_dask.inputs import Features
    from hkmeans_dask.kernels import Array
    from hkmeans_dask.minibatch import Schedule
    from hkmeans_dask.stages.label import Labels
    from hkmeans_dask.work_dir import Places
    from hkmeans_dask.workspace import InMemory

ATTEMPTS = 10
"""Damaged files that one fit computes again, at most: more is a failing disk."""


@dataclass(frozen=True)
class Job:
    """All that the stages need."""

    features: Features
    n_clusters: int
    n_rows: int
    """Training rows, at most."""
    schedule: Schedule
    allocation: str
    refine: int
    init: Array | None
    runner: Runner


def workspaces(
    job: Job, X: Any, parameters: dict[str, Any], described: dict[str, Any]
) -> AbstractContextManager[Places]:
    """Choose where intermediate results go: a `work_dir`, or where they fit."""
    features = job.features
    seed = int(check_random_state(parameters["random_state"]).randint(2**31 - 1))
    if parameters["work_dir"] is not None:
        identity = identify(X, features, parameters, seed) | described
        return durable(parameters["work_dir"], identity, seed)
    n_features, n_samples = features.blocks.shape
    n_copied = 0 if features.in_place is not None else job.n_rows
    return temporary(
        seed,
        rows_bytes=n_copied * n_samples * features.dtype.itemsize,
        label_bytes=0 if features.in_memory else 4 * n_features,
        on_cluster=job.runner.client is not None,
    )


def run_stages(
    job: Job, places: Places, seconds: dict[str, float]
) -> tuple[Hierarchy, Labels, int]:
    """Train and label; computes, in two passes over X and those that refine.

    Returns
    -------
    hierarchy : Hierarchy
    labels : Labels
    passes : int
        Those that refined.

    Raises
    ------
    ValueError
        If X has values that are not finite, or changed between the passes.
    """
    for attempt in range(ATTEMPTS):
        try:
            return _run_stages(job, places, seconds)
        except Damaged as damaged:
            if attempt == ATTEMPTS - 1:
                raise
            _discard(damaged, places.workspace, places.label_space)
    raise AssertionError("unreachable")


def _run_stages(
    job: Job, places: Places, seconds: dict[str, float]
) -> tuple[Hierarchy, Labels, int]:
    model: Any = places.workspace.find("model")
    if model is None:
        model = _train(job, places, seconds)
        if job.refine:
            model = _refine(job, model, places, seconds)
    with phase("label", seconds):
        labels = label_features(
            job.features, job.n_rows, places.seed, model, places.label_space, job.runner
        )
    (found,) = job.runner.compute(model)
    if int(found["total"]) != labels.total:
        raise ValueError(
            "X changed while it was read: the training rows of the first pass are not "
            "those of the last one. Fit again when nothing writes to it."
        )
    return Hierarchy.of(found), labels, int(found["passes"])


def _train(job: Job, places: Places, seconds: dict[str, float]) -> Any:
    """Read X once and find the centers of both levels."""
    seed, workspace = places.seed, places.workspace
    name = "nested" if job.refine else "model"
    if (nested := workspace.find(name)) is not None:
        return nested
    init, runner = job.init, job.runner
    with phase("sample", seconds):
        what = (job.features, job.n_rows, seed, workspace, runner)
        parts = keep_training_rows(*what, unit=job.schedule.unit)
    with phase("coarse", seconds):
        n_big = int(np.sqrt(job.n_clusters))
        coarse = train_coarse(parts, n_big, job.schedule, seed, init, workspace, runner)
    if init is not None and job.refine:
        return begin_with(init, coarse, parts, workspace, runner)
    with phase("partition", seconds):
        shares = (job.n_clusters, job.allocation, init)
        partitions = partition(parts, coarse, *shares, workspace, runner)
    with phase("fine", seconds):
        how = (job.schedule, seed, init, workspace, runner)
        return train_fine(partitions, *how, name)


def _refine(job: Job, model: Any, places: Places, seconds: dict[str, float]) -> Any:
    """Read X again, as often as wanted, to improve the centers.

    Given centers are compared by all features in all passes, so that the inertia can
    only fall below that of assigning every feature to the nearest of them.
    """
    exact = job.init is not None
    how = (job.refine, places.workspace, job.runner)
    with phase("refine", seconds):
        return refine(job.features, model, *how, exact=exact)


def _discard(damaged: Damaged, *workspaces: InMemory | OnDisk) -> None:
    """Remove a damaged file, so that it is computed again."""
    warnings.warn(
        f"The workspace file {damaged.name} is damaged ({damaged.reason}) and is "
        "computed again.",
        stacklevel=2,
    )
    for workspace in workspaces:
        if isinstance(workspace, OnDisk):
            workspace.discard(damaged.name)

"""The stages of a fit in their order, gone through again from where they stopped.

Every stage looks for what is finished in the workspace before it computes, so going on
after a crash and going on after a damaged file are the same: run the stages again.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.utils import format_bytes
from sklearn.utils import check_random_state

from hkmeans_dask.inputs.fit_key import identify, is_known
from hkmeans_dask.kmeans.finite import not_squared
from hkmeans_dask.kmeans.hierarchy import Hierarchy
from hkmeans_dask.planning.job import sizes_of, whole_chunks
from hkmeans_dask.planning.where import check_where, choose
from hkmeans_dask.runtime.graphs import fused
from hkmeans_dask.runtime.progress import phase
from hkmeans_dask.stages.beyond import look_beyond
from hkmeans_dask.stages.coarse import train_coarse
from hkmeans_dask.stages.copy import copied, copy_features
from hkmeans_dask.stages.even import even
from hkmeans_dask.stages.fine import train_fine
from hkmeans_dask.stages.label import Changed, are_labelled, label_features
from hkmeans_dask.stages.partition import partition
from hkmeans_dask.stages.refine import begin_with, refine
from hkmeans_dask.stages.sample import count_rows, keep_training_rows
from hkmeans_dask.workspace.files import Damaged, InMemory, OnDisk
from hkmeans_dask.workspace.places import (
    durable,
    outdate,
    temporary,
)
from hkmeans_dask.workspace.records import read
from hkmeans_dask.workspace.rows import RAW

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from hkmeans_dask.planning.job import Job
    from hkmeans_dask.planning.sizes import Sizes
    from hkmeans_dask.planning.where import Where
    from hkmeans_dask.stages.label import Labels
    from hkmeans_dask.workspace.places import Places
    from hkmeans_dask.workspace.spread import Parts

logger = logging.getLogger(__name__)


class Outdated(Exception):
    """What an earlier fit left is of an X that has changed since."""


def fitted(
    job: Job,
    X: Any,
    parameters: dict[str, Any],
    described: dict[str, Any],
    seconds: dict[str, float],
) -> tuple[Places, Hierarchy, Labels, int]:
    """Choose the workspaces and run the stages there; see `run_stages`.

    Anew, where what an earlier fit left in them is of an X that has changed since.
    """
    seed = int(check_random_state(parameters["random_state"]).randint(2**31 - 1))
    while True:
        with workspaces(job, X, parameters, described, seed) as places:
            try:
                return places, *run_stages(job, places, seconds)
            except Outdated:
                outdate(places)
            except BaseException:
                job.runner.let_go()
                raise


def workspaces(
    job: Job,
    X: Any,
    parameters: dict[str, Any],
    described: dict[str, Any],
    seed: int,
) -> AbstractContextManager[Places]:
    """Choose where intermediate results go: a `work_dir`, or where they fit.

    Raises
    ------
    MemoryError, FileNotFoundError
        See `check_where`.
    """
    work_dir, sizes = parameters["work_dir"], sizes_of(job)
    where = choose(job, sizes, work_dir)
    check_where(job, sizes, where)
    _log_decisions(job, sizes, where)
    if work_dir is not None:
        identity = identify(X, job.features, parameters, seed) | described
        drawn = parameters["random_state"] is None
        return durable(work_dir, identity, seed, known=is_known(X), drawn=drawn)
    return temporary(
        seed,
        rows_bytes=sizes.rows if where.rows_on_disk else 0,
        label_bytes=4 * sizes.n_features if where.labels_on_disk else 0,
        copy_bytes=0 if job.features.whole else int(job.features.blocks.nbytes),
        spread=where.n_sharing > 0,
    )


def _log_decisions(job: Job, sizes: Sizes, where: Where) -> None:
    logger.debug(
        "%d blocks of %d features (%s), %d training rows (%s) %s",
        *(len(whole_chunks(job.features)), sizes.block_rows),
        *(format_bytes(sizes.block_bytes), sizes.n_rows, format_bytes(sizes.rows)),
        where.of_rows,
    )
    workers = job.runner.workers()
    logger.debug(
        "%s: %d tasks at once, each of up to %s",
        f"{len(workers)} workers" if workers else "this process",
        sum(n for _, n in workers) or job.runner.n_threads,
        format_bytes(max(where.projected.tasks.values())),
    )


def run_stages(
    job: Job, places: Places, seconds: dict[str, float]
) -> tuple[Hierarchy, Labels, int]:
    """Train and label; computes, in two passes over X (or its copy) and what refines.

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
    going_on = bool(places.workspace.names())
    again = going_on and not places.known
    if again:
        _forget_values(job, places)
    seen: set[str] = set()
    while True:
        try:
            return _run_stages(job, places, seconds, again=again)
        except Changed as changed:
            if going_on:
                raise Outdated from changed
            raise
        except Damaged as damaged:
            seen |= _discard_damaged(damaged, seen, places)


def _run_stages(
    job: Job, places: Places, seconds: dict[str, float], *, again: bool
) -> tuple[Hierarchy, Labels, int]:
    model: Any = places.workspace.find("model")
    job = _in_whole_features(job, None if again else model, places, seconds)
    if model is None:
        blocks = fused(job.features.blocks)
        job = replace(job, features=replace(job.features, blocks=blocks))
        model, aside = _train(job, places, seconds)
        if job.refine:
            model = _refine(job, model, aside, places, seconds)
    what = (job.features, places.seed, model)
    where = (places.label_space, job.runner)
    with phase("label", seconds):
        labels = label_features(*what, *where, again=again, exclude=job.exclude)
    (found,) = map(read, job.runner.compute(model))
    if int(found["total"]) != labels.total:
        raise Changed(
            "X changed while it was read: the training rows of the first pass are not "
            "those of the last one. Fit again when nothing writes to it."
        )
    if not np.isfinite(labels.inertia).all():
        raise ValueError(not_squared(found["fine"].dtype))
    return Hierarchy.of(found), labels, int(found["passes"])


def _in_whole_features(
    job: Job, model: Any, places: Places, seconds: dict[str, float]
) -> Job:
    """Let the stages read whole features: from a copy of X if it must be.

    Not if all labels of the model, if there is one, are there: then nothing is read.
    """
    if job.features.whole:
        return job
    assert isinstance(places.workspace, OnDisk)
    features = copied(job.features, places.workspace)
    if model is None or not are_labelled(features, model, places.label_space):
        with phase("copy", seconds):
            copy_features(job.features, places.workspace, job.runner)
    return replace(job, features=features)


def _train(
    job: Job, places: Places, seconds: dict[str, float]
) -> tuple[Any, Any | None]:
    """Read X once and find the centers of both levels; see `even` for the rows."""
    seed, workspace = places.seed, places.workspace
    name = "nested" if job.refine else "model"
    found, aside = workspace.find(name), workspace.find("aside") if job.evens else None
    if found is not None and (aside is not None or not job.evens):
        return found, aside
    init, runner = job.init, job.runner
    _discard_passes(workspace)
    with phase("sample", seconds):
        what = (job.features, job.n_rows, seed, workspace, runner)
        unit, exclude = job.schedule.unit, job.exclude
        parts = keep_training_rows(*what, unit=unit, exclude=exclude)
    if job.exclude:  # who left out how many is known now
        n_kept = count_rows(parts, runner)
        n_clusters = min(job.n_clusters, n_kept)
        job = replace(job, n_clusters=n_clusters, n_rows=n_kept)
    with phase("coarse", seconds):
        n_big = int(np.sqrt(job.n_clusters))
        how = (job.schedule, seed, init, workspace, runner)
        coarse = train_coarse(parts, n_big, *how, beyond=job.beyond)
    if init is not None and job.refine:
        begun = (init[: job.n_clusters], coarse, parts, workspace, runner)
        model = begin_with(*begun, "begun" if job.evens else name)
        return _even(job, parts, model, places, seconds, name)
    with phase("partition", seconds):
        shares = (job.n_clusters, job.allocation, init)
        balance = job.schedule.balance
        partitions = partition(parts, coarse, *shares, workspace, runner, balance)
    with phase("fine", seconds):
        model = train_fine(partitions, *how, beyond=job.beyond)
    model, aside = _even(job, partitions.source, model, places, seconds, "even")
    if job.beyond:
        with phase("rows", seconds):
            where = (workspace, runner, job.features.weight_exponent)
            more = (name, aside)
            model = look_beyond(partitions, model, job.n_rows, *where, *more)
    return model, aside


def _discard_passes(workspace: InMemory | OnDisk) -> None:
    """Remove passes that began from other centers than those to come."""
    stale = ["refine-"] if workspace.find("fine") is not None else ["refine-", "rows-"]
    names = workspace.names()
    workspace.discard(*(name for name in names if name.startswith(tuple(stale))))


def _even(
    job: Job,
    parts: Parts,
    model: Any,
    places: Places,
    seconds: dict[str, float],
    name: str,
) -> tuple[Any, Any | None]:
    """Make sizes even among all small clusters; also give what passes need for it."""
    if not job.evens:
        return model, None
    what = (parts, job.n_rows, job.n_clusters, model, job.schedule.balance)
    where = (places.workspace, job.runner, name)
    with phase("even", seconds):
        weighted = job.schedule.weighted
        return even(*what, *where, exact=_exact(job), weighted=weighted)


def _exact(job: Job) -> bool:
    """Whether features compare all small clusters, even if they are many."""
    return job.init is not None or not job.nested


def _refine(
    job: Job, model: Any, aside: Any, places: Places, seconds: dict[str, float]
) -> Any:
    """Read X again, as often as wanted, to improve the centers.

    Given centers are compared by all features in all passes, so that the inertia can
    only fall below that of assigning every feature to the nearest of them.
    """
    how = (job.refine, places.workspace, job.runner)
    with phase("refine", seconds):
        what, exact = (job.features, model, *how), _exact(job)
        return refine(*what, exact=exact, exclude=job.exclude, aside=aside)


def _discard_damaged(damaged: Damaged, seen: set[str], places: Places) -> set[str]:
    """Remove all damaged files, so that they are computed again; give their names.

    Raises
    ------
    OSError
        If one that was computed again is damaged again: the disk fails.
    """
    found = {damaged.name: damaged.reason}
    spaces = {id(space): space for space in (places.workspace, places.label_space)}
    for space in spaces.values():
        found |= space.damaged()
    if again := [name for name in found if name.removesuffix(RAW) in seen]:
        name = min(again)
        raise OSError(
            f"The workspace file {name} is damaged again ({found[name]}) right after "
            "it was written: its disk fails. Pass a work_dir elsewhere."
        ) from damaged
    for name, reason in sorted(found.items()):
        warnings.warn(
            f"The workspace file {name} is damaged ({reason}) and is computed again.",
            stacklevel=2,
        )
    for space in spaces.values():
        space.discard(*found)
    return {name.removesuffix(RAW) for name in found}


def _forget_values(job: Job, places: Places) -> None:
    """Remove what hangs on features that no checksum covers, of an X that may differ.

    A copy; and of a fit that has not ended the passes that refined. The rest hangs on
    training rows, which the last read compares, as it does the labels.
    """
    derived = ["copy-"]
    if job.refine and not places.finished:
        derived += ["refine-", "model"]
    names = places.workspace.names()
    places.workspace.discard(*(n for n in names if n.startswith(tuple(derived))))

"""What a fit is to do, and whether memory holds it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hkmeans_dask.inputs import checks
from hkmeans_dask.kmeans.minibatch import Schedule
from hkmeans_dask.planning import memory
from hkmeans_dask.planning.sizes import Sizes
from hkmeans_dask.runtime.execution import TASK_BYTES, Runner
from hkmeans_dask.runtime.limits import available_memory
from hkmeans_dask.stages.copy import feature_cuts

if TYPE_CHECKING:
    from hkmeans_dask.inputs.arrays import Features
    from hkmeans_dask.kmeans.kernels import Array
    from hkmeans_dask.planning.memory import Projection


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
    nested: bool
    exclude: bool
    """Whether features that cannot be clustered are left out."""
    init: Array | None
    runner: Runner

    @property
    def beyond(self) -> bool:
        """Whether training rows look beyond their big cluster."""
        return not self.nested or (self.refine > 0 and self.init is None)

    @property
    def evens(self) -> bool:
        """Whether prices are learned among all small clusters."""
        return self.schedule.balance > 0 and (self.refine > 0 or not self.nested)


def job_of(
    parameters: dict[str, Any], features: Features, weights: Array | None
) -> Job:
    """Collect what the stages need, from checked parameters and features."""
    features, weighted = features.weighted(weights), weights is not None
    n_trained = features.n_trainable
    which = " of a weight above 0" if weighted else ""
    n_clusters = checks.at_most_features(parameters["n_clusters"], n_trained, which)
    init = checks.check_init(
        parameters["init"], parameters["n_clusters"], features.blocks.shape[1]
    )
    if parameters["metric"] == "cosine":
        features = replace(features, in_place=None)
        init = checks.check_directions(init)
    most = parameters["max_features_per_cluster"]
    runner = Runner.find(features.blocks, in_memory=features.in_memory)
    runner.sent_bytes = TASK_BYTES * features.blocks.npartitions
    runner.sent_bytes += 0 if weights is None else weights.nbytes
    return Job(
        features=features,
        n_clusters=n_clusters,
        n_rows=min(n_trained, (most or n_trained) * n_clusters),
        schedule=_schedule(parameters, weighted=weighted),
        allocation=parameters["allocation"],
        refine=parameters["refine"],
        nested=parameters["nested"],
        exclude=parameters["missing"] == "exclude",
        init=init,
        runner=runner,
    )


def _schedule(parameters: dict[str, Any], *, weighted: bool) -> Schedule:
    init = parameters["init"]
    return Schedule(
        init if isinstance(init, str) else "k-means++",
        parameters["batch_size"],
        parameters["n_init"],
        parameters["max_no_improvement"],
        unit=parameters["metric"] == "cosine",
        weighted=weighted,
        balance=float(parameters["balance"]),
    )


def whole_chunks(features: Features) -> tuple[int, ...]:
    """Features in each block that the stages read."""
    if features.whole:
        return tuple(features.blocks.chunks[0])
    return tuple(np.diff(feature_cuts(features.blocks)).tolist())


def sizes_of(job: Job) -> Sizes:
    """Collect what the memory of a fit hangs on."""
    features, blocks = job.features, job.features.blocks
    n_features, n_samples = blocks.shape
    heights = whole_chunks(features)
    as_given = max(blocks.chunks[0]) * max(blocks.chunks[1]) * blocks.itemsize
    block = max(heights) * n_samples * blocks.itemsize
    return Sizes(
        n_features=n_features,
        n_samples=n_samples,
        n_clusters=job.n_clusters,
        n_rows=min(job.n_rows, n_features),
        n_big=int(np.sqrt(job.n_clusters)),
        itemsize=features.dtype.itemsize,
        block_rows=max(heights),
        block_bytes=block,
        read_bytes=features.read_bytes if features.whole else block,
        copy_bytes=0 if features.whole else as_given + features.read_bytes,
        cast=job.schedule.unit
        + (features.in_place is None and blocks.dtype != features.dtype),
        copied=features.in_place is None,
        refine=job.refine,
        beyond=job.beyond,
        all_compared=job.beyond or job.refine > 0,
        here=job.runner.computes_here,
        balance=job.schedule.balance,
        evens=job.evens,
        batch_size=job.schedule.batch_size,
        n_init=job.schedule.n_init,
        n_trainable=features.n_trainable if job.schedule.weighted else 0,
        exclude=job.exclude,
    )


def check_memory(runner: Runner, projected: Projection) -> None:
    """Refuse tasks that cannot be held; run fewer at once where that is enough.

    Raises
    ------
    MemoryError
        If one task may take more than a worker, or this machine, can give.
    """
    for limit, n_threads in runner.workers():
        free = memory.usable(limit)
        if limit and projected.peak(n_threads) > free:
            needed = projected.least_limit(n_threads)
            who = f"a worker of {limit >> 20} MiB"
            raise MemoryError(projected.refusal(free, n_threads, needed, who))
    if not runner.client:
        free = available_memory()
        if projected.peak() > free:
            needed = projected.peak()
            raise MemoryError(projected.refusal(free, 1, needed, "this machine"))
        while projected.peak(runner.n_threads) > free:
            runner.limit_threads(runner.n_threads - 1)

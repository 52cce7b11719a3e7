"""Measure one method once, in this process."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import zarr
from dask.callbacks import Callback
from dask.utils import key_split

from tests.benchmarks.job import Job
from tests.benchmarks.judge import judge
from tests.benchmarks.processes import Usage, computing, used

if TYPE_CHECKING:
    from tests.benchmarks.catalogue import Benchmark


@dataclass(frozen=True)
class Run:
    """One method, once."""

    method: str
    repeat: int
    seed: int
    seconds: float
    cpu_seconds: float
    """Of all processes."""

    peak_bytes: int
    """Resident memory of the process that needed most, its libraries included."""

    reads: float | None
    """Bytes read by all processes, divided by those of the data; None in memory."""

    unexplained_variance: float | None
    n_nonempty: int | None
    imbalance: float | None
    processes: list[Usage]
    """The client first."""

    troubles: list[str]
    """Workers that were restarted, paused or spilling."""

    tasks: dict[str, int]
    """Tasks by name, where the benchmark counts them."""


@dataclass(frozen=True)
class Round:
    """Where in the order of runs one is."""

    repeat: int
    seed: int


def measure(
    benchmark: Benchmark, method: str, where: Round, path: Path, model: Path
) -> Run:
    """Run one method and judge its labels.

    Parameters
    ----------
    benchmark : Benchmark
    method : str
    where : Round
    path : Path
        Of the data.
    model : Path
        Of a fitted model of them, if the benchmark needs one.
    """
    call = benchmark.methods[method].call
    X = benchmark.data.open(path)
    tasks: Counter[str] = Counter()
    with (
        TemporaryDirectory(dir=path.parent, prefix="run-") as scratch,
        computing(benchmark.n_workers) as processes,
    ):
        warm_up(benchmark, method, Path(scratch))
        job = Job(X, benchmark.n_clusters, where.seed, model, Path(scratch, "output"))
        before, start = processes.usage(), time.perf_counter()
        with _counting(tasks) if benchmark.counts_tasks else nullcontext():
            labels = call(job)
        seconds = time.perf_counter() - start
        after = processes.usage()
        troubles = processes.troubles(before, after)
    spent = used(before, after)
    verdict = None if labels is None else judge(X, np.asarray(labels))
    return Run(
        method=method,
        repeat=where.repeat,
        seed=where.seed,
        seconds=seconds,
        cpu_seconds=sum(one.cpu_seconds for one in spent),
        peak_bytes=max(one.peak_bytes for one in spent),
        reads=_reads(spent, path),
        unexplained_variance=verdict and verdict.unexplained_variance,
        n_nonempty=verdict and verdict.n_nonempty,
        imbalance=verdict and verdict.imbalance,
        processes=spent,
        troubles=troubles,
        tasks=dict(tasks),
    )


def _reads(spent: list[Usage], path: Path) -> float | None:
    if path.is_file():
        return None
    stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return sum(one.bytes_read for one in spent) / stored


def warm_up(benchmark: Benchmark, method: str, scratch: Path) -> None:
    """Run the method on a little noise, so that nobody's imports are measured."""
    path = scratch / f"noise{Path(benchmark.data.file).suffix}"
    noise = np.random.default_rng(0).standard_normal((2000, 32), np.float32)
    if path.suffix == ".npy":
        np.save(path, noise)
    else:
        zarr.create_array(path, data=noise, chunks=(200, 32))
    X = benchmark.data.open(path)
    job = Job(X, 10, 0, scratch / "model", scratch / "noise-output")
    if benchmark.model_part:
        save_model(job, benchmark.model_part)
    benchmark.methods[method].call(job)


def save_model(job: Job, part: float) -> None:
    """Fit ours to a part of the features, the first ones, and save it."""
    from hkmeans_dask import HierarchicalKMeans

    model = HierarchicalKMeans(job.n_clusters, random_state=job.seed)
    X = job.X if part == 1 else job.X[: int(part * job.X.shape[0])]
    model.fit(X).to_zarr(job.model)


def _counting(counts: Counter[str]) -> Callback:
    """Count the tasks of local schedulers by name, inside."""
    return Callback(pretask=lambda key, *_: counts.update([key_split(key)]))

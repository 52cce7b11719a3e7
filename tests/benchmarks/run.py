"""Run every method in turn, on the same data, and time it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.data import fmri, patches
from tests.benchmarks.judge import judge
from tests.benchmarks.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Benchmark:
    """An array, and how many clusters to find in it."""

    load: Callable[[], NDArray[np.float32]]
    n_clusters: int


BENCHMARKS = {
    "patches": Benchmark(patches, n_clusters=1000),
    "fmri": Benchmark(fmri, n_clusters=1000),
}
SMALL_BENCHMARKS = {
    "patches": Benchmark(partial(patches, stride=12), n_clusters=50),
    "fmri": Benchmark(partial(fmri, side=16, n_samples=50), n_clusters=50),
}


@dataclass(frozen=True)
class Run:
    """One timed clustering, and what its labels are worth."""

    method: str
    repeat: int
    seed: int
    seconds: float
    cpu_seconds: float
    """Of this process, all its threads."""
    unexplained_variance: float
    n_nonempty: int


def run(
    X: NDArray[np.float32], n_clusters: int, n_repeats: int, n_seeds: int
) -> Iterator[Run]:
    """Yield one run per repeat, seed and method, the methods alternating.

    Parameters
    ----------
    X : ndarray of shape (n_features, n_samples), float32
        Made read-only: no method may change what the next one clusters.
    n_clusters : int
    n_repeats : int
        Times that each seed is run.
    n_seeds : int
        The seeds are 0 to ``n_seeds - 1``.
    """
    warm_up()
    X.setflags(write=False)
    for repeat in range(n_repeats):
        for seed in range(n_seeds):
            for method in METHODS:
                yield run_once(method, X, n_clusters, repeat, seed)


def warm_up() -> None:
    """Call every method on a little noise, so that nobody's import is timed."""
    X = np.random.default_rng(0).standard_normal((500, 8), dtype=np.float32)
    for cluster in METHODS.values():
        cluster(X, 10, 0)


def run_once(
    method: str, X: NDArray[np.float32], n_clusters: int, repeat: int, seed: int
) -> Run:
    """Time one method, then judge its labels."""
    start, cpu_start = time.perf_counter(), time.process_time()
    labels = METHODS[method](X, n_clusters, seed)
    seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - cpu_start
    return Run(method, repeat, seed, seconds, cpu_seconds, *judge(X, labels))

"""What is neither reading nor arithmetic: ``python -m tests.benchmarks.overheads``.

Each figure is taken in a process of its own with one thread, of each checkout in turn::

    python -m tests.benchmarks.overheads CHECKOUT ... --repeats 5

so that two versions are compared in one run. Seconds are those of the processor,
memory is what Python and NumPy ask for, above what they had.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
import dask
import dask.array as da
import dask.threaded
import numpy as np
import zarr

from hkmeans_dask import HierarchicalKMeans

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


def stored(
    folder: Path, shape: tuple[int, int], n_blocks: int, n_equal: int = 1
) -> Any:
    """Write random values in blocks, so many features in no order nearly equal."""
    rng = np.random.default_rng(0)
    n_features, n_samples = shape
    values = rng.standard_normal((-(-n_features // n_equal), n_samples), np.float32)
    values = values[rng.permutation(n_features) // n_equal]
    values += 1e-3 * rng.random(shape, np.float32)
    chunks = (-(-n_features // n_blocks), n_samples)
    return zarr.create_array(folder / "x.zarr", data=values, chunks=chunks)


def many_clusters(folder: Path, n: int, *, files: bool) -> float:
    """Fit n features in 100 blocks to a tenth as many clusters."""
    X = stored(folder, (n, 128), 100)
    where = folder / "work" if files else None
    model = HierarchicalKMeans(n // 10, max_features_per_cluster=4, work_dir=where)
    return spent(lambda: model.fit(X))


def small_blocks(folder: Path, n: int) -> float:
    """Fit n blocks of dask, of 8 features and 4 samples; milliseconds a block."""
    X = in_small_blocks(folder, n)
    return 1000 * spent(lambda: HierarchicalKMeans(10).fit(X)) / n


def in_small_blocks(folder: Path, n: int) -> da.Array:
    """Write n blocks, and hold them."""
    X: da.Array = da.from_zarr(stored(folder, (8 * n, 4), 1)).rechunk((8, 4)).persist()
    return X


def building(folder: Path, n: int) -> float:
    """Do the same, and take off what the scheduler did."""
    X, scheduled = in_small_blocks(folder, n), 0.0

    def get(*what: Any, **how: Any) -> Any:
        nonlocal scheduled
        began = time.process_time()
        try:
            return dask.threaded.get(*what, **how)
        finally:
            scheduled += time.process_time() - began

    with dask.config.set(scheduler=get):
        total = spent(lambda: HierarchicalKMeans(10).fit(X))
    return 1000 * (total - scheduled) / n


def inverse(folder: Path, n: int) -> float:
    """Give n features their clusters' values, 100 at once; milliseconds a block."""
    X = stored(folder, (n, 512), n // 100)
    model = HierarchicalKMeans(n // 5, max_features_per_cluster=2).fit(X)
    reduced = da.from_array(np.asarray(model.transform(X)))
    blocks = model.inverse_transform(reduced).to_delayed().ravel()
    return 1000 * spent(lambda: [block.compute() for block in blocks]) / len(blocks)


def in_no_order(folder: Path, n: int) -> float:
    """Transform n features in no order, each block of all clusters; megabytes."""
    X = stored(folder, (n, 256), 10, n_equal=20)
    model = HierarchicalKMeans(n // 20, max_features_per_cluster=2).fit(X)
    tracemalloc.start()
    model.transform(X).sum().compute()
    return tracemalloc.get_traced_memory()[1] / 1e6


FIGURES: dict[str, tuple[Callable[[Path, int], float], int]] = {
    "fit, k = n / 10, in memory, s": (
        lambda folder, n: many_clusters(folder, n, files=False),
        200_000,
    ),
    "the same in files, s": (
        lambda folder, n: many_clusters(folder, n, files=True),
        200_000,
    ),
    "fit of tiny blocks, a block, ms": (small_blocks, 1000),
    "the same, six times as many": (small_blocks, 6000),
    "what of it builds graphs, 1,000 blocks": (building, 1000),
    "6,000 blocks": (building, 6000),
    "inverse_transform, a block, ms": (inverse, 20_000),
    "transform, features in no order, MB": (in_no_order, 400_000),
}
"""What is taken, with the usual number of features or blocks."""


def spent(work: Callable[[], object]) -> float:
    """Give the seconds that the processor works for this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def figure(name: str, part: float) -> float:
    """Take one figure here."""
    take, number = FIGURES[name]
    with (
        TemporaryDirectory(prefix="overheads-") as folder,
        dask.config.set(scheduler="threads", num_workers=1),
    ):
        HierarchicalKMeans(5).fit(np.eye(100))  # all is imported
        return take(Path(folder), int(part * number))


def taken(name: str, part: float, checkout: Path) -> float:
    """Take one figure of a checkout, in a process of its own."""
    code = f"from overheads import *; print(figure({name!r}, {part}))"
    paths = os.pathsep.join([str(checkout), str(Path(__file__).parent)])
    one = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1")
    environment = os.environ | one | {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", code]
    return float(subprocess.check_output(command, env=environment, text=True))


@click.command(context_settings={"show_default": True})
@click.argument("checkouts", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--repeats", default=3, help="Runs, of which the median is shown.")
@click.option("--part", default=1.0, help="Part of the features.")
def main(checkouts: tuple[Path, ...], repeats: int, part: float) -> None:
    """Show overheads of CHECKOUTS, or of this one, side by side."""
    where = checkouts or (ROOT,)
    click.echo(" | ".join(["", *(path.name for path in where)]))
    for name in FIGURES:
        rounds = [[taken(name, part, path) for path in where] for _ in range(repeats)]
        medians = map(statistics.median, zip(*rounds, strict=True))
        click.echo(" | ".join([name, *(f"{value:.2f}" for value in medians)]))


if __name__ == "__main__":
    main()

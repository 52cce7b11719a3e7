"""What is neither reading nor arithmetic: ``python -m tests.benchmarks.overheads``.

Each figure is taken in a process of its own with one thread, of each checkout in turn::

    python -m tests.benchmarks.overheads CHECKOUT ... --repeats 5

so that two versions are compared in one run. Seconds are those of the processor.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
import dask
import dask.array as da
import numpy as np
import zarr

from hkmeans_dask import HierarchicalKMeans

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


def stored(folder: Path, shape: tuple[int, int], n_blocks: int) -> Any:
    """Write random values in blocks."""
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    chunks = (-(-shape[0] // n_blocks), shape[1])
    return zarr.create_array(folder / "x.zarr", data=values, chunks=chunks)


def many_clusters(folder: Path, n: int, *, files: bool) -> float:
    """Fit n features in 100 blocks to a tenth as many clusters."""
    X = stored(folder, (n, 128), 100)
    where = folder / "work" if files else None
    model = HierarchicalKMeans(n // 10, max_features_per_cluster=4, work_dir=where)
    return spent(lambda: model.fit(X))


def small_blocks(folder: Path, n: int) -> float:
    """Fit n blocks of dask, of 8 features and 4 samples; milliseconds a block."""
    X = da.from_zarr(stored(folder, (8 * n, 4), 1)).rechunk((8, 4)).persist()
    return 1000 * spent(lambda: HierarchicalKMeans(10).fit(X)) / n


def inverse(folder: Path, n: int) -> float:
    """Give n features their clusters' values, 100 at once; milliseconds a block."""
    X = stored(folder, (n, 512), n // 100)
    model = HierarchicalKMeans(n // 5, max_features_per_cluster=2).fit(X)
    reduced = da.from_array(np.asarray(model.transform(X)))
    blocks = model.inverse_transform(reduced).to_delayed().ravel()
    return 1000 * spent(lambda: [block.compute() for block in blocks]) / len(blocks)


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
    "inverse_transform, a block, ms": (inverse, 20_000),
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

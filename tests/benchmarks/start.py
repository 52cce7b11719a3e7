"""What passes before the first block: imports, workers, the first fit on a new cluster.

Each round runs all of it one after the other, in fresh processes; ratios are taken
within a round, to the imports that no command could do without.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click

from tests.benchmarks.data import blobs_zarr

COMMAND = "import sys; from hkmeans_dask.cli.commands import main; sys.exit(main())"
IMPORTS = "import numpy, zarr, distributed, sklearn.base"
TWICE = """
import json, sys, time, zarr
from distributed import Client, LocalCluster
import dask.array as da
from hkmeans_dask import HierarchicalKMeans
from tests.benchmarks.processes import Processes
X, found = da.from_zarr(zarr.open_array(sys.argv[1], mode="r"))[:, :100], []
how = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
with LocalCluster(n_workers=2, **how) as cluster, Client(cluster) as client:
    both = Processes(client)
    for _ in range(2):
        cpu, began = sum(one.cpu_seconds for one in both.usage()), time.perf_counter()
        HierarchicalKMeans(100).fit(X)
        found.append(time.perf_counter() - began)
        found.append(sum(one.cpu_seconds for one in both.usage()) - cpu)
print(json.dumps(found))
"""


class Spent(NamedTuple):
    """Time of a process, and of those that it started."""

    seconds: float
    cpu_seconds: float


def spent(*args: Any) -> tuple[Spent, str]:
    """Run Python; give what it took and what it printed."""
    before, began = os.times(), time.perf_counter()
    command = [sys.executable, *map(str, args)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])
    return Spent(seconds, cpu), ran.stdout


def once(path: Path) -> dict[str, Spent]:
    """Run all of it."""
    with TemporaryDirectory() as folder:
        fit = ("-c", COMMAND, "fit", path, Path(folder, "model"), "-k", 100)
        found = {
            "imports": spent("-c", IMPORTS)[0],
            "fit, threads": spent(*fit, "--overwrite")[0],
            "fit, --workers 2": spent(*fit, "--overwrite", "--workers", 2)[0],
        }
    first = json.loads(spent("-c", TWICE, path)[1])
    found["first fit on a new cluster"] = Spent(*first[:2])
    found["second fit there"] = Spent(*first[2:])
    return found


def middle(
    rounds: list[dict[str, Spent]], name: str, field: int
) -> tuple[float, float]:
    """Give the median of a time, and of its ratios to the imports of the round."""
    times = [one[name][field] for one in rounds]
    ratios = [one[name][field] / one["imports"][field] for one in rounds]
    return statistics.median(times), statistics.median(ratios)


@click.command(context_settings={"show_default": True})
@click.option("--features", default=40_000, help="Of 128 samples, float32.")
@click.option("--repeats", default=5, type=click.IntRange(min=1))
def main(features: int, repeats: int) -> None:
    """Time small fits beside the imports that they need: medians of rounds."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "x.zarr")
        blobs_zarr(path, features, n_blobs=200, chunk_rows=10_000)
        rounds = [once(path) for _ in range(repeats)]
    click.echo(f"{'':<28}seconds  times imports  CPU seconds  times imports")
    for name in rounds[0]:
        found = [middle(rounds, name, field) for field in (0, 1)]
        numbers = (f"{value:>7.2f}  {ratio:>13.2f}" for value, ratio in found)
        click.echo(f"{name:<28}{'      '.join(numbers)}")

"""Fits of two versions in turn: ``python -m tests.benchmarks.versions OLD NEW``.

OLD and NEW are checkouts. Each has a process of one thread that stays, so that start
and imports do not count, and both fit the same data with the same seed, one right after
the other: machines are noisy, ratios of one moment are less so. What one version leaves
by default the other may leave with other parameters, in other time::

    python -m tests.benchmarks.versions OLD NEW textures --also '{"n_init": 3}'
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np

from tests.benchmarks.__main__ import CACHE, POSITIVE
from tests.benchmarks.catalogue import BENCHMARKS, KINDS, small
from tests.benchmarks.judge import judge
from tests.benchmarks.run import written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks.catalogue import Benchmark

NAMES = (*KINDS, "patches_10000", "fmri_10000")


class Fitted(NamedTuple):
    """What one fit took and left."""

    seconds: float
    """Of the processor."""

    unexplained: float


@contextmanager
def version(checkout: Path, folder: str) -> Iterator[Callable[..., Fitted]]:
    """Start the process of a checkout; give what fits there.

    Parameters
    ----------
    checkout : Path
    folder : str
        For the labels.
    """
    one = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1")
    environment = os.environ | one | {"PYTHONPATH": str(checkout.resolve())}
    environment["PYTHONSAFEPATH"] = "1"
    command = [sys.executable, str(Path(__file__).with_name("fits.py"))]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, told, labels = process.stdin, process.stdout, Path(folder, "labels.npy")

        def fit(path: Path, X: Any, **parameters: Any) -> Fitted:
            what = {"path": str(path), "parameters": parameters, "labels": str(labels)}
            print(json.dumps(what), file=asked, flush=True)
            seconds = float(told.readline())
            return Fitted(seconds, judge(X, np.load(labels)).unexplained_variance)

        yield fit


def compared(
    benchmark: Benchmark,
    path: Path,
    fits: list[tuple[Callable[..., Fitted], dict[str, Any]]],
    seeds: int,
) -> str:
    """Fit in turn with each seed; tell medians, and ratios to the first of them."""
    X = benchmark.data.open(path)
    rounds = []
    for seed in range(seeds):
        how = {"n_clusters": benchmark.n_clusters, "random_state": seed}
        rounds.append([fit(path, X, **how, **more) for fit, more in fits])
    columns = []
    for runs in zip(*rounds, strict=True):
        pairs = [(run, others[0]) for run, others in zip(runs, rounds, strict=True)]
        seconds = statistics.median(run.seconds for run in runs)
        unexplained = statistics.median(run.unexplained for run in runs)
        times = statistics.median(run.seconds / old.seconds for run, old in pairs)
        leaves = statistics.median(
            run.unexplained / old.unexplained for run, old in pairs
        )
        columns.append(
            f"{seconds:.2f} / {unexplained:.4f} ({times:.2f} / {leaves:.3f})"
        )
    return " | ".join(columns)


@click.command(context_settings={"show_default": True})
@click.argument("old", type=click.Path(exists=True, path_type=Path))
@click.argument("new", type=click.Path(exists=True, path_type=Path))
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--seeds", default=3, type=POSITIVE, help="Seeds 0 to N - 1.")
@click.option(
    "--also",
    multiple=True,
    type=json.loads,
    metavar="JSON",
    help="More parameters of the new version, beside its defaults.",
)
@click.option("--small", "is_small", is_flag=True, help="Little data, k=50.")
@click.option("--cache", type=click.Path(path_type=Path), default=CACHE)
def main(
    old: Path,
    new: Path,
    names: tuple[str, ...],
    seeds: int,
    also: tuple[dict[str, Any], ...],
    is_small: bool,
    cache: Path,
) -> None:
    """Compare the checkouts OLD and NEW on the data NAMES (default: of all kinds).

    A column a setting: seconds of the processor / unexplained variance, medians of
    seeds, and of ratios to those of OLD with the same seed.
    """
    others = [f"{new.name} {json.dumps(how)}" for how in also]
    click.echo(" | ".join(["data", old.name, new.name, *others]))
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="versions-"))
        before, now = (
            stack.enter_context(version(checkout, folder)) for checkout in (old, new)
        )
        fits = [(before, {}), (now, {}), *((now, how) for how in also)]
        for name in names or NAMES:
            benchmark = small(BENCHMARKS[name]) if is_small else BENCHMARKS[name]
            place = cache / "small" if is_small else cache
            with written(benchmark, place) as path:
                click.echo(f"{name} | {compared(benchmark, path, fits, seeds)}")


if __name__ == "__main__":
    main()

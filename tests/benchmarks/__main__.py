"""The command line: ``python -m tests.benchmarks --help``."""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tests.benchmarks import simulate, start
from tests.benchmarks.catalogue import BENCHMARKS, KINDS, Benchmark, small
from tests.benchmarks.environment import environment
from tests.benchmarks.front import draw_all, overview
from tests.benchmarks.job import OURS
from tests.benchmarks.measure import Round
from tests.benchmarks.run import run, written
from tests.benchmarks.summary import details, summarize, table

if TYPE_CHECKING:
    from typing import TextIO

POSITIVE = click.IntRange(min=1)
METHODS = dict.fromkeys(name for one in BENCHMARKS.values() for name in one.methods)
CACHE = Path(tempfile.gettempdir()) / "hkmeans-dask-benchmarks"


def _names(_: Any, __: Any, given: str | None) -> list[str] | None:
    """Take names of methods with commas between them."""
    names = given.split(",") if given else None
    unknown = [name for name in names or () if name not in METHODS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(METHODS)}.")
    return names


@click.command(context_settings={"show_default": True})
@click.argument("names", nargs=-1, type=click.Choice(["kinds", *BENCHMARKS]))
@click.option("--repeats", default=1, type=POSITIVE, help="Runs of each seed.")
@click.option("--seeds", default=3, type=POSITIVE, help="Seeds 0 to N - 1.")
@click.option(
    "--methods",
    callback=_names,
    metavar="A,B",
    help="Instead of all but those that take minutes; ours runs anyway.",
)
@click.option("--small", "is_small", is_flag=True, help="Little data, k=50.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=CACHE,
    envvar="HKMEANS_BENCHMARKS",
    show_envvar=True,
    help="Folder of the data.",
)
@click.option(
    "--json",
    "output",
    type=click.File("w"),
    help="Also write every run to this file.",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False),
    help="Also draw time against unexplained variance, and show a table of all data.",
)
def main(
    names: tuple[str, ...],
    repeats: int,
    seeds: int,
    methods: list[str] | None,
    is_small: bool,
    cache: Path,
    output: TextIO | None,
    picture: str | None,
) -> None:
    """Measure ours and its peers on the benchmarks NAMES (default: most of them).

    "kinds" are those of data in memory, real and simulated, of all kinds. Instead of
    names, "simulate" runs graphs of fits too large for a machine: "simulate --help",
    "hosts" a fit on hosts that share nothing but an S3 server, and "start" small fits
    beside what they import.
    """
    where = environment()
    click.echo(", ".join(f"{key}: {value}" for key, value in where.items()))
    rounds = [Round(repeat, seed) for repeat in range(repeats) for seed in range(seeds)]
    results: dict[str, Any] = {}
    wanted = _wanted(names)
    for name in wanted:
        full = BENCHMARKS[name]
        if is_small:
            benchmark, folder = small(full), cache / "small"
        else:
            benchmark, folder = full, cache
        chosen = _chosen(name, benchmark, methods)
        with written(benchmark, folder) as path:
            try:
                result = _measure(name, benchmark, chosen, rounds, path, is_small)
            except Exception as error:  # the other benchmarks may still work
                click.echo(f"{name} failed: {type(error).__name__}: {error}", err=True)
            else:
                results[name] = result
    if output:
        json.dump({"environment": where, "benchmarks": results}, output, indent=2)
    if picture and results:
        click.echo(f"\n{overview(results)}")
        draw_all(results, picture)
    if len(results) < len(wanted):
        raise SystemExit(1)


def _wanted(names: tuple[str, ...]) -> list[str]:
    """Benchmarks to run, each once."""
    if not names:
        return [name for name, one in BENCHMARKS.items() if not one.on_request]
    groups = (KINDS if name == "kinds" else (name,) for name in names)
    return list(dict.fromkeys(itertools.chain(*groups)))


def _chosen(name: str, benchmark: Benchmark, wanted: list[str] | None) -> list[str]:
    """Methods to run; says which cannot, for want of a package."""
    chosen = []
    for method, about in benchmark.methods.items():
        if method != OURS and method not in (wanted or benchmark.methods):
            continue
        if wanted is None and method in benchmark.slow:
            continue
        if about.available:
            chosen.append(method)
        else:
            click.echo(f"{name}: no {method}, {about.distribution} is not installed")
    return chosen


def _measure(
    name: str,
    benchmark: Benchmark,
    methods: list[str],
    rounds: list[Round],
    path: Path,
    is_small: bool,
) -> dict[str, Any]:
    """Run one benchmark, show each run as it ends, then the summary."""
    runs = []
    for one in run(benchmark, methods, rounds, path, fresh=not is_small):
        click.echo(
            f"{name} {one.method} seed {one.seed}: {one.seconds:.2f} s", err=True
        )
        runs.append(one)
    summaries = summarize(runs, benchmark.limit)
    n_features, n_samples = benchmark.data.open(path).shape
    shape = f"{n_features:,} features x {n_samples} samples"
    places = f"{benchmark.n_workers} workers" if benchmark.n_workers else "threads"
    click.echo(f"\n{name}: {shape}, k={benchmark.n_clusters}, {places}")
    click.echo("\n".join([table(summaries), *details(runs)]))
    return {
        "n_features": n_features,
        "n_samples": n_samples,
        "n_clusters": benchmark.n_clusters,
        "n_workers": benchmark.n_workers,
        "summaries": [asdict(summary) for summary in summaries],
        "runs": [asdict(one) for one in runs],
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["simulate"]:
        simulate.main(sys.argv[2:])
    if sys.argv[1:2] == ["hosts"]:
        from tests.benchmarks import hosts  # what it needs may not be installed

        hosts.main(sys.argv[2:])
    if sys.argv[1:2] == ["start"]:
        start.main(sys.argv[2:])
    main()

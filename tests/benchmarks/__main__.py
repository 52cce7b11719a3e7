"""The command line: ``python -m tests.benchmarks --help``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tests.benchmarks.environment import environment
from tests.benchmarks.run import BENCHMARKS, SMALL_BENCHMARKS, Benchmark, run
from tests.benchmarks.summary import summarize, table

if TYPE_CHECKING:
    from typing import TextIO

POSITIVE = click.IntRange(min=1)


@click.command(context_settings={"show_default": True})
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--repeats", default=1, type=POSITIVE, help="Runs of each seed.")
@click.option("--seeds", default=3, type=POSITIVE, help="Seeds 0 to N - 1.")
@click.option("--small", is_flag=True, help="A few thousand features, k=50.")
@click.option(
    "--json",
    "output",
    type=click.File("w"),
    help="Also write every run to this file.",
)
def main(
    names: tuple[str, ...],
    repeats: int,
    seeds: int,
    small: bool,
    output: TextIO | None,
) -> None:
    """Time ours and its peers on the benchmarks NAMES (default: all of them)."""
    where = environment()
    click.echo(", ".join(f"{key}: {value}" for key, value in where.items()))
    benchmarks = SMALL_BENCHMARKS if small else BENCHMARKS
    results = {
        name: measure(name, benchmarks[name], repeats, seeds)
        for name in names or benchmarks
    }
    if output:
        json.dump({"environment": where, "benchmarks": results}, output, indent=2)


def measure(
    name: str, benchmark: Benchmark, repeats: int, seeds: int
) -> dict[str, Any]:
    """Run one benchmark, show each run as it ends, then the summary."""
    X, n_clusters = benchmark.load(), benchmark.n_clusters
    runs = []
    for one in run(X, n_clusters, repeats, seeds):
        click.echo(
            f"{name} {one.method} seed {one.seed}: {one.seconds:.2f} s", err=True
        )
        runs.append(one)
    summaries = summarize(runs)
    n_features, n_samples = X.shape
    shape = f"{n_features:,} features x {n_samples} samples"
    click.echo(f"\n{name}: {shape}, k={n_clusters}\n{table(summaries)}")
    return {
        "n_features": n_features,
        "n_samples": n_samples,
        "n_clusters": n_clusters,
        "summaries": [asdict(summary) for summary in summaries],
        "runs": [asdict(one) for one in runs],
    }


if __name__ == "__main__":
    main()

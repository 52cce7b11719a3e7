"""Draw imbalance against unexplained variance: ``python -m tests.benchmarks.evenness``.

Takes what ``python -m tests.benchmarks NAMES --json FILE`` wrote, with the methods that
the README names.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from tests.benchmarks.catalogue import PARTS, SETTINGS
from tests.benchmarks.front import OUR_METHODS, PEERS, explain
from tests.benchmarks.job import OURS

if TYPE_CHECKING:
    from typing import TextIO

    from matplotlib.axes import Axes

    Point = tuple[float, float]
    """Imbalance, unexplained variance."""

LINES = {
    "ours": (OURS, *(f"balance_{part}" for part in PARTS)),
    "ours, nested=False": ("beyond", *(f"beyond_balance_{part}" for part in PARTS)),
}
"""Settings from the least even to the most."""


def points(benchmark: dict[str, Any]) -> dict[str, Point]:
    """Give the medians of each method that was judged."""
    return {
        one["method"]: (one["imbalance"], one["unexplained_variance"])
        for one in benchmark["summaries"]
        if one["imbalance"] is not None
    }


def draw(axes: Axes, title: str, found: dict[str, Point]) -> None:
    """Draw one benchmark: a line for each of ours, its points named by `balance`."""
    for label, names in LINES.items():
        there = [name for name in names if name in found]
        axes.plot(
            *zip(*(found[name] for name in there), strict=True), "o-", label=label
        )
        for name in there:
            parameters = SETTINGS.get(name, {})
            text = f"{parameters.get('balance', 0):g}"
            axes.annotate(text, found[name], (3, 4), textcoords="offset points")
    peers = [name for name in found if name not in OUR_METHODS]
    for marker, name in zip(PEERS, peers, strict=False):
        axes.plot(*found[name], marker, ms=8, color="0.3", label=name.replace("_", " "))
    axes.set(title=title, xlabel="imbalance", ylabel="unexplained variance")
    axes.margins(0.1)


@click.command()
@click.argument("file", type=click.File())
@click.argument("picture", type=click.Path(dir_okay=False))
def main(file: TextIO, picture: str) -> None:
    """Draw the benchmarks in FILE, a panel each, into PICTURE."""
    from matplotlib.figure import Figure

    benchmarks = json.load(file)["benchmarks"]
    figure = Figure(figsize=(4 * len(benchmarks), 3.8), layout="constrained")
    panels = figure.subplots(1, len(benchmarks), squeeze=False)
    for axes, (name, one) in zip(panels.flat, benchmarks.items(), strict=True):
        draw(axes, f"{name}, k={one['n_clusters']}", points(one))
    explain(figure, loc="outside lower center", ncols=5)
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    main()

"""Draw time against unexplained variance: ``python -m tests.benchmarks.front``.

Takes what ``python -m tests.benchmarks patches fmri --json FILE`` wrote. A method is on
the front if no other is both faster and better; the front of ours is drawn as steps.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from tests.benchmarks.catalogue import SETTINGS
from tests.benchmarks.job import OURS

if TYPE_CHECKING:
    from typing import TextIO

    from matplotlib.axes import Axes

    Point = tuple[float, float]
    """Seconds, unexplained variance."""

OUR_METHODS = (OURS, *SETTINGS)


def points(benchmark: dict[str, Any]) -> dict[str, Point]:
    """Give the medians of each method that was judged."""
    return {
        one["method"]: (one["seconds"], one["unexplained_variance"])
        for one in benchmark["summaries"]
        if one["unexplained_variance"] is not None
    }


def front(found: dict[str, Point]) -> list[str]:
    """Names of the methods than which no other is faster and better, fastest first."""
    names, lowest = [], float("inf")
    for name in sorted(found, key=lambda name: found[name]):
        if found[name][1] < lowest:
            names.append(name)
            lowest = found[name][1]
    return names


def draw(axes: Axes, title: str, found: dict[str, Point]) -> None:
    """Draw one benchmark."""
    ours = {name: at for name, at in found.items() if name in OUR_METHODS}
    steps = [ours[name] for name in front(ours)]
    seconds, variances = zip(*steps, strict=True)
    axes.step(seconds, variances, where="post", color="C0", lw=1, alpha=0.6)
    for name, at in found.items():
        color, marker = ("C0", "o") if name in ours else ("C3", "s")
        axes.plot(*at, marker, color=color, ms=5)
        label = "defaults" if name == OURS else name.replace("_", " ")
        axes.annotate(label, at, (5, 4), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.12)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("seconds")
    axes.set_ylabel("unexplained variance")


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.File())
@click.argument("picture", type=click.Path(dir_okay=False))
def main(files: tuple[TextIO, ...], picture: str) -> None:
    """Draw the benchmarks in FILES, a panel each, into PICTURE."""
    from matplotlib.figure import Figure

    found = {k: v for file in files for k, v in json.load(file)["benchmarks"].items()}
    figure = Figure(figsize=(10, 3.6 * -(-len(found) // 2)), layout="constrained")
    grid = figure.subplots(-(-len(found) // 2), min(2, len(found)), squeeze=False)
    for axes, one in zip(grid.flat, found.values(), strict=False):
        shape = f"{one['n_features']:,} x {one['n_samples']}"
        draw(axes, f"{shape}, k={one['n_clusters']}", points(one))
    for name, one in found.items():
        click.echo(f"{name}: on the front {', '.join(front(points(one)))}")
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()

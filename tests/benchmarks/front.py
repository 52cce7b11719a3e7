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
PEERS = "sD^vPX*<>"
"""Markers."""
TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Seconds."""


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


def draw(axes: Axes, title: str, found: dict[str, Point], names: list[str]) -> None:
    """Draw one benchmark; a method looks as its place among all `names` says."""
    from matplotlib import colormaps
    from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

    colors = colormaps["tab20"]
    ours = {name: at for name, at in found.items() if name in OUR_METHODS}
    seconds, variances = zip(*(ours[name] for name in front(ours)), strict=True)
    axes.step(seconds, variances, where="post", color="0.6", lw=1, zorder=0)
    for name, at in found.items():
        number = names.index(name)
        marker, size = ("o", 6) if name in ours else (PEERS[number % len(PEERS)], 7)
        label = "ours, defaults" if name == OURS else name.replace("_", " ")
        label = f"ours, {label}" if name in SETTINGS else label
        color = colors(number % 20)
        axes.plot(*at, marker, ms=size, color=color, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.1)
    axes.set(title=title, xlabel="seconds", ylabel="unexplained variance")


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.File())
@click.argument("picture", type=click.Path(dir_okay=False))
def main(files: tuple[TextIO, ...], picture: str) -> None:
    """Draw the benchmarks in FILES, a panel each, into PICTURE."""
    from matplotlib.figure import Figure

    found = {k: v for file in files for k, v in json.load(file)["benchmarks"].items()}
    figure = Figure(figsize=(10, 3.6 * -(-len(found) // 2)), layout="constrained")
    names = list(dict.fromkeys(name for one in found.values() for name in points(one)))
    grid = figure.subplots(-(-len(found) // 2), min(2, len(found)), squeeze=False)
    for axes, one in zip(grid.flat, found.values(), strict=False):
        shape = f"{one['n_features']:,} x {one['n_samples']}"
        draw(axes, f"{shape}, k={one['n_clusters']}", points(one), names)
    shown = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(shown.values(), shown.keys(), loc="outside right upper", fontsize=8)
    for name, one in found.items():
        click.echo(f"{name}: on the front {', '.join(front(points(one)))}")
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()

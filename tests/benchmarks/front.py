"""Draw time against unexplained variance: ``python -m tests.benchmarks.front``.

Takes what ``python -m tests.benchmarks kinds --json FILE`` wrote. A method is on the
front if no other is both faster and better; the front of ours is drawn as steps.
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
    from matplotlib.figure import Figure

    Point = tuple[float, float]
    """Seconds, unexplained variance."""

OUR_METHODS = (OURS, *SETTINGS)
PEERS = "sD^vPX*<>"
"""Markers."""
TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Seconds."""


def points(benchmark: dict[str, Any], clock: str = "seconds") -> dict[str, Point]:
    """Give the medians of each method that was judged."""
    return {
        one["method"]: (one[clock], one["unexplained_variance"])
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


def draw(
    axes: Axes, title: str, found: dict[str, Point], names: list[str], clock: str
) -> None:
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
    label = clock.replace("cpu_", "CPU ")
    axes.set(title=title, xlabel=label, ylabel="unexplained variance")


def overview(benchmarks: dict[str, Any], clock: str = "seconds") -> str:
    """Lay out time and unexplained variance of all methods, a line each of all data."""
    found = {name: points(one, clock) for name, one in benchmarks.items()}
    methods = list(dict.fromkeys(name for one in found.values() for name in one))
    lines = [["time/ours, U/ours", *found]]
    for method in methods:
        cells = (_beside(one.get(method), one[OURS]) for one in found.values())
        lines.append([method, *cells])
    widths = [max(map(len, column)) + 2 for column in zip(*lines, strict=True)]
    return "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def _beside(their: Point | None, our: Point) -> str:
    if their is None:
        return "-"
    return f"{their[0] / our[0]:.2f} {their[1] / our[1]:.4f}"


def draw_all(benchmarks: dict[str, Any], picture: str, clock: str = "seconds") -> None:
    """Draw a panel for each benchmark."""
    from matplotlib.figure import Figure

    n_rows = -(-len(benchmarks) // 2)
    figure = Figure(figsize=(10, 3.6 * n_rows), layout="constrained")
    found = {name: points(one, clock) for name, one in benchmarks.items()}
    names = list(dict.fromkeys(name for one in found.values() for name in one))
    grid = figure.subplots(n_rows, min(2, len(found)), squeeze=False)
    for axes in grid.flat[len(found) :]:
        axes.remove()
    for axes, (name, one) in zip(grid.flat, benchmarks.items(), strict=False):
        shape = f"{one['n_features']:,} x {one['n_samples']}"
        title = f"{name}: {shape}, k={one['n_clusters']}"
        draw(axes, title, found[name], names, clock)
    explain(figure, loc="outside right upper", fontsize=8)
    figure.savefig(picture, dpi=110)


def explain(figure: Figure, **how: Any) -> None:
    """Add one legend of what is in any of the panels."""
    shown = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(shown.values(), shown.keys(), **how)


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.File())
@click.argument("picture", type=click.Path(dir_okay=False))
@click.option("--cpu", is_flag=True, help="CPU seconds, for runs beside other work.")
def main(files: tuple[TextIO, ...], picture: str, *, cpu: bool) -> None:
    """Draw the benchmarks in FILES, a panel each, into PICTURE."""
    clock = "cpu_seconds" if cpu else "seconds"
    found = {k: v for file in files for k, v in json.load(file)["benchmarks"].items()}
    click.echo(overview(found, clock))
    for name, one in found.items():
        click.echo(f"{name}: on the front {', '.join(front(points(one, clock)))}")
    draw_all(found, picture, clock)


if __name__ == "__main__":
    main()

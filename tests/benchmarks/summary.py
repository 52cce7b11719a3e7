"""Medians of the runs, ratios, and the table that shows them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks.job import OURS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.benchmarks.measure import Run


@dataclass(frozen=True)
class Summary:
    """One method's medians; each ratio is the median over rounds (repeat, seed).

    None where there is nothing to compare or judge.
    """

    method: str
    seconds: float
    cpu_seconds: float
    peak_bytes: float
    reads: float | None
    unexplained_variance: float | None
    n_nonempty: float | None
    imbalance: float | None
    time_ratio: float
    """This method's seconds divided by ours: above 1, we are faster."""

    variance_ratio: float | None
    """Our unexplained variance divided by this method's: below 1, we are better."""

    limit_ratio: float | None
    """This method's seconds divided by those of a plain read or write."""


def summarize(runs: Sequence[Run], limit: str | None = None) -> list[Summary]:
    """Sum up the runs of one benchmark, a summary for each method.

    Parameters
    ----------
    runs : sequence of Run
        Of all methods, ours among them, round after round.
    limit : str, optional
        The method that is a plain read or write, if it was run.
    """
    names = list(dict.fromkeys(one.method for one in runs))
    by_method = {name: [one for one in runs if one.method == name] for name in names}
    ours, limits = by_method[OURS], by_method.get(limit or "", [])
    return [_summary(theirs, ours, limits) for theirs in by_method.values()]


def _summary(runs: list[Run], ours: list[Run], limits: list[Run]) -> Summary:
    return Summary(
        method=runs[0].method,
        seconds=median(one.seconds for one in runs),
        cpu_seconds=median(one.cpu_seconds for one in runs),
        peak_bytes=median(one.peak_bytes for one in runs),
        reads=_median([one.reads for one in runs]),
        unexplained_variance=_median([one.unexplained_variance for one in runs]),
        n_nonempty=_median([one.n_nonempty for one in runs]),
        imbalance=_median([one.imbalance for one in runs]),
        time_ratio=median(_ratios(runs, ours, lambda one: one.seconds)),
        variance_ratio=_median(
            _ratios(ours, runs, lambda one: one.unexplained_variance)
        ),
        limit_ratio=_median(_ratios(runs, limits, lambda one: one.seconds)),
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _ratios(
    runs: list[Run], others: list[Run], value: Callable[[Run], float | None]
) -> list[float]:
    """Divide the values of one method by those of another, if any, round by round."""
    pairs = zip(map(value, runs), map(value, others), strict=False)
    return [one / other for one, other in pairs if one is not None and other]


COLUMNS: dict[str, tuple[str, Callable[[Summary], float | None]]] = {
    "seconds": (".2f", lambda s: s.seconds),
    "CPU s": (".2f", lambda s: s.cpu_seconds),
    "peak MB": (".0f", lambda s: s.peak_bytes / 1e6),
    "reads": (".2f", lambda s: s.reads),
    "unexplained": (".4f", lambda s: s.unexplained_variance),
    "clusters": ("g", lambda s: s.n_nonempty),
    "imbalance": (".3f", lambda s: s.imbalance),
    "time/ours": (".2f", lambda s: s.time_ratio),
    "our U/its": (".3f", lambda s: s.variance_ratio),
    "time/plain": (".2f", lambda s: s.limit_ratio),
}
"""Title, format and value of each column."""


def table(summaries: Sequence[Summary]) -> str:
    """Lay the summaries out as plain text, a line each."""
    lines = [["method", *COLUMNS]]
    for summary in summaries:
        values = [(shape, value(summary)) for shape, value in COLUMNS.values()]
        cells = ["-" if v is None else format(v, shape) for shape, v in values]
        lines.append([summary.method, *cells])
    return "\n".join(
        f"{name:<20}" + "".join(f"{cell:>12}" for cell in cells)
        for name, *cells in lines
    )


def details(runs: Sequence[Run]) -> list[str]:
    """Lines about processes, tasks, and workers in trouble."""
    lines = []
    for one in runs:
        what = f"{one.method} seed {one.seed}"
        if len(one.processes) > 1:
            peaks = ", ".join(f"{p.peak_bytes / 1e6:.0f}" for p in one.processes)
            lines.append(f"{what}: peak MB of client, workers: {peaks}")
        if one.tasks:
            tasks = ", ".join(f"{name} {n}" for name, n in one.tasks.items())
            lines.append(f"{what}: {sum(one.tasks.values())} tasks: {tasks}")
        lines += [f"{what}: {trouble}" for trouble in one.troubles]
    return lines

"""Medians of the runs, ratios to ours, and the table that shows them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks.methods import METHODS, OURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.run import Run


@dataclass(frozen=True)
class Summary:
    """One method's medians; each ratio is the median over rounds (repeat, seed)."""

    method: str
    seconds: float
    cpu_seconds: float
    unexplained_variance: float
    n_nonempty: float
    time_ratio: float
    """This method's seconds divided by ours: above 1, we are faster."""
    variance_ratio: float
    """Our unexplained variance divided by this method's: below 1, we are better."""


def summarize(runs: Sequence[Run]) -> list[Summary]:
    """Sum up the runs of one benchmark, a summary for each method."""
    by_method = {name: [r for r in runs if r.method == name] for name in METHODS}
    return [_summary(theirs, by_method[OURS]) for theirs in by_method.values()]


def _summary(runs: list[Run], ours: list[Run]) -> Summary:
    pairs = list(zip(runs, ours, strict=True))
    return Summary(
        method=runs[0].method,
        seconds=median(r.seconds for r in runs),
        cpu_seconds=median(r.cpu_seconds for r in runs),
        unexplained_variance=median(r.unexplained_variance for r in runs),
        n_nonempty=median(r.n_nonempty for r in runs),
        time_ratio=median(r.seconds / o.seconds for r, o in pairs),
        variance_ratio=median(
            o.unexplained_variance / r.unexplained_variance for r, o in pairs
        ),
    )


def table(summaries: Sequence[Summary]) -> str:
    """Lay the summaries out as plain text, a line each."""
    header = (
        f"{'method':<16}{'seconds':>9}{'CPU s':>9}{'unexplained':>13}"
        f"{'clusters':>10}{'time/ours':>11}{'our U/its':>11}"
    )
    lines = [
        f"{s.method:<16}{s.seconds:>9.2f}{s.cpu_seconds:>9.2f}"
        f"{s.unexplained_variance:>13.4f}{s.n_nonempty:>10g}"
        f"{s.time_ratio:>11.2f}{s.variance_ratio:>11.3f}"
        for s in summaries
    ]
    return "\n".join([header, *lines])

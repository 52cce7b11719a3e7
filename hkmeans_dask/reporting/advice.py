"""What looks wrong in a fitted model, and what to do about it.

The limits are rules of thumb: above them a user should look, not worry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

UNEQUAL = 3.0
"""Imbalance factor from which sizes are called very unequal."""

TINY = 3
"""Features of a tiny cluster, at most."""

MANY_TINY = 0.05
"""Share of tiny clusters from which they are mentioned."""

MOST = 0.5
"""Share of features, or of inertia, from which one big cluster dominates."""


class Advice(NamedTuple):
    """One warning."""

    title: str
    remedy: str


def advise(model: Any) -> list[Advice]:
    """List what should be looked at in a fitted model, the gravest first."""
    found = [
        *_fewer_clusters(model),
        *_dominant(model),
        *_unequal(model),
        *_tiny(model),
    ]
    return found


def _fewer_clusters(model: Any) -> Iterator[Advice]:
    if model.n_clusters_ < model.n_clusters:
        yield Advice(
            f"{model.n_clusters_:,} clusters were found of {model.n_clusters:,} asked "
            "for",
            "X has fewer distinct features than that, or no feature chose some of the "
            "clusters. Ask for fewer, or look for constant or repeated features.",
        )


def _dominant(model: Any) -> Iterator[Advice]:
    """Look for a big cluster that has most of the features or of the inertia."""
    n_big = len(model.coarse_centers_)
    parts = {"features": model.coarse_sizes_}
    if hasattr(model, "cluster_inertia_"):
        parts["inertia"] = model.coarse_inertia_
    remedies = {
        "features": "Often a few features far from all others take the other big "
        "clusters. Leave background and outliers out of X, or scale the features.",
        "inertia": "Its features differ most. Ask for more clusters, or look whether "
        "few features of very large values are among them; scale these.",
    }
    for name, values in parts.items():
        share = values.max() / max(values.sum(), np.finfo(float).tiny)
        if n_big > 2 and share > MOST:
            yield Advice(
                f"Big cluster {values.argmax()} (of {n_big:,}) has {share:.0%} of the "
                f"{name}",
                remedies[name],
            )


def _unequal(model: Any) -> Iterator[Advice]:
    if model.imbalance_ > UNEQUAL:
        yield Advice(
            f"Cluster sizes are very unequal: the imbalance factor is "
            f"{model.imbalance_:.1f}",
            "Where regions of like size are wanted, fit with balance=0.5, or more, up "
            "to 1. Else leave constant background out of X, or scale the features so "
            "that their norms are alike.",
        )


def _tiny(model: Any) -> Iterator[Advice]:
    n_tiny = int((model.sizes_ <= TINY).sum())
    if n_tiny > MANY_TINY * model.n_clusters_:
        yield Advice(
            f"{n_tiny:,} of {model.n_clusters_:,} clusters have {TINY} features or "
            "fewer",
            "They are outliers, or more clusters than the features hold. Ask for "
            "fewer, or leave outliers out of X.",
        )

"""A pass of k-means over parts of the features, which is not made again if it is found.

::

    part --> what its features say about the centers -+
    part --> ...                                      -+--merge--> centers move
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from hkmeans_dask.kmeans.moves import Outcome, merge
from hkmeans_dask.kmeans.sums import FAN_IN
from hkmeans_dask.runtime.tasks import names, task, tasks
from hkmeans_dask.workspace.records import at_hand

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask.delayed import Delayed

    from hkmeans_dask.kmeans.hierarchy import Arrays
    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.workspace.files import InMemory, OnDisk

logger = logging.getLogger(__name__)


def pass_over(
    name: str,
    make_sums: Callable[[Any], list[Delayed]],
    move: Callable[..., Arrays],
    model: Any,
    workspace: InMemory | OnDisk,
    runner: Runner,
    rounds: int,
    weight_exponent: int,
    *beside: Any,
) -> tuple[Any, Outcome]:
    """Make one pass, unless it has been made; give the model and what it came to.

    `move` takes the sums, the model, what is `beside` it, the workspace and the name.
    """
    moved, count = workspace.find(name), []
    if moved is None:
        sums = make_sums(at_hand(model, runner))
        count = names(sums)
        what = (_merged(sums), model, *beside)
        moved = task("move", move, *what, workspace, name)
    on_disk = workspace.on_disk
    (model,) = runner.hold([moved], handles=on_disk, count=count, rounds=rounds)
    (outcome,) = runner.compute(task("settled", _outcome, model))
    logger.debug(
        "%s: inertia %.6g, %.3g less by moving, %d clusters without features",
        name,
        np.ldexp(outcome.inertia, weight_exponent),
        np.ldexp(outcome.gain, weight_exponent),
        outcome.empty,
    )
    return model, outcome


def _merged(partials: list[Delayed]) -> Delayed:
    """Add up the sums of all blocks, in a tree."""
    while True:
        several = range(0, len(partials), FAN_IN)
        calls = [(partials[first : first + FAN_IN],) for first in several]
        partials = tasks("merge", merge, calls)
        if len(partials) == 1:
            return partials[0]


def _outcome(model: Arrays) -> Outcome:
    return Outcome(*(model[field].item() for field in Outcome._fields))


def as_arrays(fields: dict[str, Any]) -> dict[str, Any]:
    """Make arrays of what a workspace saves."""
    return {name: np.asarray(value) for name, value in fields.items()}

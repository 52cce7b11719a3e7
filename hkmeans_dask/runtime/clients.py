"""What clients of this process hold on clusters, and whether it is known there."""

from __future__ import annotations

from typing import Any

from hkmeans_dask.compat import open_clients

Keys = frozenset[Any]


def held() -> Keys:
    """Keys of the futures of all clients; without a word to a scheduler."""
    return frozenset(key for client in open_clients() for key in list(client.futures))


def known(keys: Keys) -> bool:
    """Ask schedulers whether they need any of some keys.

    They know a key as long as anything depends on it that somebody wants. A graph that
    is on its way may depend on it, too: that of a pending future that they do not know.
    """
    return any(
        client.asynchronous
        or client.run_on_scheduler(_known, keys=keys, pending=_pending(client))
        for client in open_clients()
    )


def _pending(client: Any) -> Keys:
    states = list(client.futures.items())
    return frozenset(key for key, state in states if state.status == "pending")


def _known(keys: Keys, pending: Keys, dask_scheduler: Any) -> bool:
    tasks = dask_scheduler.tasks
    return not keys.isdisjoint(tasks) or not pending <= tasks.keys()

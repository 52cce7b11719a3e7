"""Names that other packages do not promise to keep, behind one door.

Any of them may go with the next release of its package. What uses one asks here, and
goes on without it: slower, or without the feature that is told of below.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Hashable


def output_container(estimator: Any) -> str:
    """Tell what `set_output` asks `transform` for; else: what all estimators give."""
    import sklearn

    own: dict[str, str] = getattr(estimator, "_sklearn_output_config", {})
    found: str = own.get("transform", sklearn.get_config()["transform_output"])
    return found


def run_on_zarr(coroutine: Coroutine[Any, Any, Any], otherwise: Any) -> Any:
    """Wait for a coroutine of a store where Zarr runs its own.

    Else: `otherwise`. What is in a remote store is then not known before it is read.
    """
    try:
        from zarr.core.sync import sync
    except ImportError:
        coroutine.close()
        return otherwise
    return sync(coroutine)


async def find_details(store: Any, place: str) -> dict[str, dict[str, Any]]:
    """Give keys of an fsspec store, each with its size and time; else: keys alone."""
    find = getattr(store.fs, "_find", None)
    if find is not None:
        found: dict[str, dict[str, Any]] = await find(place, detail=True)
        return found
    base = place.removeprefix(store.path).lstrip("/")
    return {f"{store.path}/{key}": {} async for key in store.list_prefix(base)}


def keep_names(graph: dict[Hashable, Any], keys: list[Hashable]) -> None:
    """Let fused tasks have the names that are asked for; else: those dask gave them.

    dask names a fused task after all of its parts, and makes the name that was an alias
    of that: who looks at a running task would not see the stage.
    """
    for key in keys:
        fused = getattr(graph[key], "target", None)
        rename = getattr(graph.get(fused), "substitute", None)
        if rename is not None:
            graph[key] = rename({}, key=key)
            del graph[fused]


def task_annotations() -> tuple[Any, dict[str, Any]] | None:
    """Find the worker at work here, and the annotations of its task; else: None.

    Without them workers do not tell what they have done.
    """
    if "distributed.worker" not in sys.modules:
        return None
    from distributed import get_worker

    with suppress(ValueError, KeyError, AttributeError):
        worker = get_worker()
        task = worker.state.tasks[worker.get_current_task()]
        return worker, dict(task.annotations or {})
    return None


def forget_pools() -> None:
    """Let dask begin a new pool, in a process that was forked from one that had one.

    The threads of that one are not here; who waits for them waits for ever.
    """
    threaded = sys.modules.get("dask.threaded")
    if hasattr(threaded, "default_pool"):
        threaded.default_pool = None  # type: ignore[union-attr]
    if hasattr(threaded, "pools"):
        threaded.pools.clear()  # type: ignore[union-attr]


def open_clients() -> list[Any]:
    """Find the clients of this process; else: the current one."""
    if "distributed" not in sys.modules:
        return []
    from distributed import Client, default_client

    found = list(getattr(Client, "_instances", ()))
    if not found:
        with suppress(ValueError):
            found = [default_client()]
    return [client for client in found if client.status != "closed"]

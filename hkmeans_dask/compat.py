"""Names that other packages do not promise to keep, behind one door.

Any of them may go with the next release of its package. What uses one asks here, and
goes on without it: slower, or without the feature that is told of below.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator


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


def zarr_loop() -> Any:
    """Find the event loop where Zarr runs what it asks stores for; else: None.

    Zarr then reads remote chunks itself, with more copies.
    """
    return run_on_zarr(_this_loop(), None)


async def _this_loop() -> Any:
    return asyncio.get_running_loop()


async def find_details(store: Any, place: str) -> dict[str, dict[str, Any]]:
    """Give keys of an fsspec store, each with its size and time; else: keys alone."""
    find = getattr(store.fs, "_find", None)
    if find is not None:
        found: dict[str, dict[str, Any]] = await find(place, detail=True)
        return found
    base = place.removeprefix(store.path).lstrip("/")
    return {f"{store.path}/{key}": {} async for key in store.list_prefix(base)}


async def documents(array: Any, store: Any) -> list[tuple[Any, Any]]:
    """Give the metadata of an array as Zarr writes them, each with that in a store.

    Else: none. What is in a store is then opened to be compared.
    """
    try:
        from zarr.core.buffer import default_buffer_prototype

        written = array.metadata.to_buffer_dict(default_buffer_prototype())
    except (ImportError, AttributeError):
        return []
    base = f"{array.path}/" if array.path else ""
    return [
        (document, await store.get(base + name, default_buffer_prototype()))
        for name, document in written.items()
        if name != ".zattrs"
    ]


@contextmanager
def lean_imports(*packages: str) -> Iterator[None]:
    """Let others not import packages that they would only look for: that takes 1 s.

    dask.array looks for blocks of sparse and xarray, scikit-learn for tables of pandas.
    Only for processes of our own, in which nobody has any.
    """
    absent = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


def task_nodes() -> Any:
    """Find how dask writes the tasks of a graph; else: None.

    Without that `delayed` and `map_blocks` write them, in a time that grows with the
    square of their number, and reads are tasks of their own.
    """
    try:
        from dask import _task_spec as nodes
    except ImportError:
        return None
    known = ("Alias", "DataNode", "GraphNode", "List", "Task", "TaskRef")
    return nodes if all(hasattr(nodes, name) for name in known) else None


def unfolded(node: Any, nodes: Any) -> Any:
    """Write a fused task as a call within a call; else: as it is.

    dask puts the tasks of a fused one in order again each time that it runs.
    """
    if getattr(getattr(node, "func", None), "__name__", "") != "_execute_subgraph":
        return node
    inner, outer, names, *values = node.args
    if not isinstance(inner, dict) or len(names) != len(values):
        return node
    uses = Counter(key for one in inner.values() for key in one.dependencies)
    if any(uses[name] > 1 for name in inner):
        return node
    known = dict(inner)
    for name, value in zip(names, values, strict=True):
        plain = not isinstance(value, (nodes.GraphNode, nodes.TaskRef))
        known[name] = nodes.DataNode(None, value) if plain else value
    found = known[outer]
    for _ in inner:  # most often a chain, which is as long as it has links
        within = found.dependencies & known.keys()
        found = found.substitute({name: known[name] for name in within})
    return found if found.dependencies == node.dependencies else node


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

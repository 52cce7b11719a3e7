"""Graphs of calls, written in a time that grows as the number of tasks.

A list of n results as an argument of a ``dask.delayed`` costs dask n walks through the
graph that they come from; a fused read is put in order again each time that it runs.
So tasks are written here as dask's own nodes: calls of one kind are one layer, and the
read of a block is a call inside the call that needs it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask.core import flatten
from dask.delayed import Delayed, delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from hkmeans_dask.compat import task_nodes, unfolded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


def calls(
    name: str,
    keys: Sequence[str],
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
) -> list[Delayed]:
    """Call a function later, once for each key.

    Parameters
    ----------
    name : str
        Of the layer.
    keys : sequence of str
    function : callable
    arguments : sequence of tuples
        Delayed ones, and those in lists, are computed first.
    """
    nodes = task_nodes()
    if nodes is None:
        lazy = delayed(function, pure=False, traverse=False)
        pairs = zip(keys, arguments, strict=True)
        return [lazy(*args, dask_key_name=key) for key, args in pairs]
    layer = {
        key: nodes.Task(key, function, *(_node(arg, nodes) for arg in args))
        for key, args in zip(keys, arguments, strict=True)
    }
    return _layer(name, layer, keys, _delayed(itertools.chain(*arguments)))


def calls_on_blocks(
    name: str,
    function: Callable[..., Any],
    blocks: da.Array,
    args: tuple[Any, ...],
    together: int | None = None,
    finish: Sequence[Any] = (),
) -> list[list[Delayed]]:
    """Call ``function(block, first row, *args)`` on each block, fused with its read.

    Parameters
    ----------
    name : str
    function : callable
    blocks : dask array of shape (n_features, n_samples)
    args : tuple
        Delayed ones are computed first; of arrays of dask a task gets the block that is
        beside its own, or the only one there is.
    together : int, optional
        Blocks along features that one task reads, one after the other: the function
        gets what it gave for the block before, or None, as its first argument.
    finish : sequence
        What is called last with what it gave, and the arguments before that.

    Returns
    -------
    results : list of lists of Delayed
        By block, or so many together, along features, then along samples.
    """
    nodes = task_nodes()
    if nodes is None:
        if together is None:
            return _mapped_by_dask(name, function, blocks, args)
        return _runs_by_dask(name, function, blocks, args, together, finish)
    given = [arg for arg in args if isinstance(arg, da.Array)]
    reads, layer = _reads([blocks, *given], nodes)
    starts = np.cumsum((0, *blocks.chunks[0])).tolist()
    plain = [_node(arg, nodes) for arg in args]
    keys = []
    for number, rows, column in _runs(blocks, together):
        key = (name, number, column)
        before: tuple[Any, ...] = () if together is None else (None,)
        for row in rows:
            block, *beside = (_at((row, column), read) for read in reads)
            others = iter(beside)
            filled = [next(others) if isinstance(p, da.Array) else p for p in plain]
            layer[key] = nodes.Task(key, function, *before, block, starts[row], *filled)
            before = (layer[key],)
        if finish:
            layer[key] = nodes.Task(key, *finish, *before)
        keys.append(key)
    made_there = _layer(name, layer, keys, _delayed(args))
    return _by_row(made_there, blocks.numblocks[1])


def _runs(blocks: da.Array, together: int | None) -> Iterator[tuple[int, range, int]]:
    """Give the number of each task, the rows of blocks that it reads, the column."""
    n_long, n_wide = blocks.numblocks
    step = together or 1
    for number, first in enumerate(range(0, n_long, step)):
        for column in range(n_wide):
            yield number, range(first, min(first + step, n_long)), column


def _by_row(results: list[Delayed], n_wide: int) -> list[list[Delayed]]:
    return [results[at : at + n_wide] for at in range(0, len(results), n_wide)]


def _node(arg: Any, nodes: Any) -> Any:
    """Refer to what is computed first, and leave all else as it is."""
    if isinstance(arg, Delayed):
        return nodes.TaskRef(arg.key)
    if isinstance(arg, list) and any(isinstance(one, Delayed) for one in arg):
        return nodes.List(*(_node(one, nodes) for one in arg))
    return arg


def _delayed(args: Iterable[Any]) -> Iterator[Delayed]:
    """Find what is computed first, among arguments and in lists."""
    for arg in args:
        for one in arg if isinstance(arg, list) else (arg,):
            if isinstance(one, Delayed):
                yield one


def _layer(
    name: str, layer: dict[Any, Any], keys: Sequence[Any], needed: Iterator[Delayed]
) -> list[Delayed]:
    """Put tasks above what they need, of which one stands for all of its layer."""
    known = {(id(one.dask), one.__dask_layers__()): one for one in needed}
    below: list[Any] = list(known.values())
    graph = HighLevelGraph.from_collections(name, layer, below)
    return [Delayed(key, graph, layer=name) for key in keys]


class _Fused(MaterializedLayer):
    """The tasks of an array, of which `fused` made as few as they can be."""


def fused(blocks: da.Array) -> da.Array:
    """Write an array in as few tasks as it can be, once for all times that it is read.

    dask does so each time that an array is computed, which takes longer than all else
    that building the task of a block does.
    """
    nodes = task_nodes()
    if nodes is None:
        return blocks
    tasks = _optimized([blocks])
    tasks = {key: unfolded(tasks[key], nodes).substitute({}, key) for key in tasks}
    graph = HighLevelGraph({blocks.name: _Fused(tasks)}, {blocks.name: set()})
    return da.Array(graph, blocks.name, blocks.chunks, meta=blocks)


def _is_fused(array: da.Array) -> bool:
    return [type(layer) for layer in array.dask.layers.values()] == [_Fused]


def _optimized(arrays: Sequence[da.Array]) -> dict[Any, Any]:
    """Give the tasks that arrays need, as few as they can be."""
    graph: dict[Any, Any] = {}
    others = [array for array in arrays if not _is_fused(array)]
    if others:
        keys = list(itertools.chain(*map(_keys, others)))
        merged = HighLevelGraph.merge(*(array.__dask_graph__() for array in others))
        graph.update(others[0].__dask_optimize__(merged, keys))
    for array in arrays:
        if _is_fused(array):
            graph.update(array.dask.layers[array.name])
    return graph


def _keys(array: da.Array) -> list[Any]:
    return list(flatten(array.__dask_keys__()))


def _reads(
    arrays: list[da.Array], nodes: Any
) -> tuple[list[np.ndarray[Any, Any]], dict[Any, Any]]:
    """Give what reads the blocks of arrays, and the tasks that these need.

    A read that one task needs is a call to be made there, else a reference.
    """
    graph, keys = _optimized(arrays), [_keys(array) for array in arrays]
    needed = Counter(
        key for node in graph.values() for key in getattr(node, "dependencies", ())
    )
    found = []
    for array, of_array in zip(arrays, keys, strict=True):
        once = array.numblocks == arrays[0].numblocks
        reads = np.empty(array.numblocks, object)
        for key in of_array:
            read = _read(key, graph, needed, nodes) if once else None
            reads[key[1:]] = nodes.TaskRef(key) if read is None else read
        found.append(reads)
    return found, graph


def _read(
    key: Any, graph: dict[Any, Any], needed: Counter[Any], nodes: Any
) -> Any | None:
    """Take the read of a block out of the graph, if it is of use here alone."""
    if needed[key]:
        return None
    name = getattr(graph[key], "target", key)
    if needed[name] > 1:
        return None
    node = unfolded(graph.get(name), nodes)
    values = isinstance(node, nodes.DataNode) and isinstance(node.value, np.ndarray)
    if not values and not isinstance(node, nodes.Task):
        return None
    graph.pop(name)
    if name != key:
        graph.pop(key)
    return node


def _at(place: tuple[int, ...], reads: np.ndarray[Any, Any]) -> Any:
    """Give the read beside a block, or the only one along an axis."""
    return reads[tuple(min(i, n - 1) for i, n in zip(place, reads.shape, strict=True))]


def _mapped_by_dask(
    name: str, function: Callable[..., Any], blocks: da.Array, args: tuple[Any, ...]
) -> list[list[Delayed]]:
    grid = blocks.numblocks
    mapped = da.map_blocks(
        _call_with_start,
        blocks,
        function,
        *args,
        name=name,
        dtype=object,
        chunks=((1,) * grid[0], (1,) * grid[1]),
        meta=np.empty((0, 0), object),
    )
    return [list(row) for row in mapped.to_delayed()]


def _runs_by_dask(
    name: str,
    function: Callable[..., Any],
    blocks: da.Array,
    args: tuple[Any, ...],
    together: int,
    finish: Sequence[Any],
) -> list[list[Delayed]]:
    """Read the blocks of a task first, all of them."""
    starts = np.cumsum((0, *blocks.chunks[0])).tolist()
    parts = [_in_pieces(arg) for arg in (blocks, *args)]
    lazy = delayed(_call_in_turn, pure=False)
    results = []
    for number, rows, column in _runs(blocks, together):
        calls = [
            (starts[row], *(_at((row, column), part) for part in parts)) for row in rows
        ]
        results.append(
            lazy(function, calls, finish, dask_key_name=(name, number, column))
        )
    return _by_row(results, blocks.numblocks[1])


def _in_pieces(arg: Any) -> np.ndarray[Any, Any]:
    if isinstance(arg, da.Array):
        return np.asarray(arg.to_delayed())
    only = np.empty((1, 1), object)
    only[0, 0] = arg
    return only


def _call_in_turn(
    function: Callable[..., Any], calls: list[Any], finish: Sequence[Any]
) -> Any:
    result = None
    for start, block, *args in calls:
        result = function(result, block, start, *args)
    last, *first = finish
    return last(*first, result)


def _call_with_start(
    block: Any, function: Callable[..., Any], *args: Any, block_info: Any = None
) -> Any:
    return function(block, block_info[0]["array-location"][0][0], *args)

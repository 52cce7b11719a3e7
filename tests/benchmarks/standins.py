"""A process of simulated workers: tasks of real graphs, but nothing read or computed.

Each worker is one of one thread. What a task would give is replaced by a `Blank` that
tells as many bytes; files that the client reads (the model, counts of labels) are
written, those of training rows and labels are not. Everything that schedules, sends and
keeps is that of distributed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import zlib
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dask
import numpy as np
from dask.sizeof import sizeof
from distributed import Worker, get_worker

from hkmeans_dask.kmeans.hierarchy import FREE
from hkmeans_dask.runtime import progress, tasks
from hkmeans_dask.storage.source import Source
from hkmeans_dask.workspace.rows import PIECE_BYTES, StoredRows, row_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

LABEL_BYTES = 12
"""Of a label and its distance, as a block gives them."""


class Blank(NamedTuple):
    """What stands for a result."""

    n_bytes: int
    n_rows: int = 0


sizeof.register(Blank, lambda blank: blank.n_bytes)

read: Counter[str] = Counter()
"""Bytes of X, and of the model, that each worker read or was sent."""

ran: Counter[str] = Counter()
"""Tasks by the function that they call."""


def _read(source: Source, index: tuple[slice, ...]) -> Any:
    """Read a block of Zarr: as large, but of one value."""
    shape = tuple(len(range(n)[i]) for n, i in zip(source.shape, index, strict=True))
    block = np.broadcast_to(np.zeros((), source.dtype), shape)
    read[get_worker().address] += block.nbytes
    return block


def _call(wanted: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call what stands for a function, if there is such a thing."""
    module, _, name = function.__module__.rpartition(".")
    name = f"{function.__module__.removeprefix(module + '.')}.{function.__name__}"
    ran[name] += 1
    result = STANDINS.get(name, function)(*args)
    progress.done()
    return result


def _keep(block: Any, start: int, offset: int, how: Any, limit: int, *_: Any) -> Blank:
    rows = round(len(block) * (limit + 1) / 2**64)
    return Blank(rows * block.shape[1] * how.dtype.itemsize, rows)


def _join(kept: list[Blank], _: Any, bound: Any, limit: int, *where: Any) -> StoredRows:
    _, how, workspace, name = where
    n_rows = max(1, round((bound[1] - bound[0]) * (limit + 1) / 2**64))
    width = round(kept[0].n_bytes / max(1, kept[0].n_rows) / how.dtype.itemsize)
    like = np.empty((0, width), how.dtype)
    return _rows(workspace, name, np.array([0, n_rows]), like)


def _rows(workspace: Any, name: str, starts: Any, like: Any) -> StoredRows:
    most = max(1, PIECE_BYTES // max(1, row_bytes(like)))
    between = [np.arange(*pair, most) for pair in itertools.pairwise(starts)]
    cuts = np.unique(np.concatenate([*between, starts]))
    checksums = np.zeros((2, len(cuts) - 1), np.uint32)
    return StoredRows(workspace, name, starts, cuts, checksums, like, 0, 1)


def _coarse(parts: Any, _: Any, most: Any, n_big: int, *how: Any) -> Any:
    workspace, like = how[-2], parts[0].like
    centers = np.random.default_rng(0).random((n_big, like.shape[1]), np.float32)
    found = {"offset": centers[0], "centers": centers, "spread": np.array(1.0)}
    return workspace.save("coarse", axes=np.empty((0, 0), "f4"), prices=FREE, **found)


def _split(part: StoredRows, coarse: Any, workspace: Any, number: int) -> StoredRows:
    n_big, n_rows = len(coarse.centers), int(part.starts[-1])
    starts = np.arange(n_big + 1) * n_rows // n_big
    return _rows(workspace, f"partition-{number}", starts, part.like)


def _count(_: Any, bigs: Any, origins: Any, most: Any, weighted: bool) -> Any:
    return np.asarray(most)


def _train(parts: Any, group: int, origin: Any, _: Any, share: int, *how: Any) -> Any:
    workspace, name, of = how[-3:]
    centers = np.broadcast_to(origin, (share, len(origin)))
    return workspace.save(name, of=of, centers=centers, prices=FREE)


def _load(record: Any) -> Blank:
    fine = record["fine"]
    return Blank(fine.nbytes, len(fine))


def _label(block: Any, *_: Any) -> Blank:
    return Blank(LABEL_BYTES * len(block), len(block))


def _labels(
    blocks: list[Blank], model: Blank, workspace: Any, name: str, of: int, _: bool
) -> Any:
    """Write counts of all clusters, but only one label."""
    n_rows, n_clusters = sum(block.n_rows for block in blocks), model.n_rows
    sizes = np.full(n_clusters, n_rows // n_clusters)
    sizes[: n_rows % n_clusters] += 1
    sizes = np.roll(sizes, zlib.crc32(name.encode()) % n_clusters)
    total, labels = np.array(0, np.uint64), np.zeros(1, np.int32)
    counts = {"sizes": sizes, "inertia": sizes.astype(float)}
    return workspace.save(name, of=of, labels=labels, total=total, **counts)


STANDINS: dict[str, Callable[..., Any]] = {
    "drawing.keep": _keep,
    "drawing.join": _join,
    "coarse._train": _coarse,
    "partition._split": _split,
    "partition._count_each": _count,
    "fine._train": _train,
    "records._load": _load,
    "label._digest": lambda _: 1,
    "label._label": _label,
    "label._join": _labels,
}
"""By module and name of the functions of `hkmeans_dask` that tasks call."""


async def _work(address: str, n_workers: int, told: Path) -> None:
    """Be workers until the scheduler ends; then tell what they did."""
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(
                Worker(address, nthreads=1, memory_limit=0, name=number)
            )
            for number in range(n_workers)
        ]
        await asyncio.gather(*(worker.finished() for worker in workers))
    moved = sum(int(o["total"]) for w in workers for o in w.transfer_incoming_log)
    told.write_text(
        json.dumps({"read": list(read.values()), "moved": moved, "ran": dict(ran)})
    )


if __name__ == "__main__":
    dask.config.set({"distributed.admin.low-level-log-length": 10**7})  # all transfers
    tasks._call = _call
    Source.__getitem__ = _read  # type: ignore[assignment,method-assign]
    asyncio.run(_work(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))

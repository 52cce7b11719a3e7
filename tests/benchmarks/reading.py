"""Read chunks of a store that waits: ``python -m tests.benchmarks.reading``.

Once as a task does, once as Zarr does, in turns; medians, and ratios of both.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import zarr
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.storage import MemoryStore, WrapperStore

from hkmeans_dask.storage.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

CODECS = {"blosc": BloscCodec(), "zstd": ZstdCodec(), "none": None}
WHOLE = (slice(None), slice(None))


class Waiting(WrapperStore[MemoryStore]):
    """A store that takes some seconds for each request."""

    seconds = 0.0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Wait, and read."""
        await asyncio.sleep(self.seconds)
        return await super().get(key, prototype, byte_range)


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Give milliseconds of the clock and of the processor."""
    began = time.perf_counter(), time.process_time()
    call()
    return 1e3 * (time.perf_counter() - began[0]), 1e3 * (
        time.process_time() - began[1]
    )


@click.command()
@click.option("--chunks", default=48, show_default=True, help="Of 1 MiB, in a block.")
@click.option("--wait", default=0.02, show_default=True, help="Seconds of a request.")
@click.option("--rounds", default=9, show_default=True)
def main(chunks: int, wait: float, rounds: int) -> None:
    """Print what reading a block takes, in milliseconds."""
    values = np.random.default_rng(0).integers(0, 500, (2048 * chunks, 128))
    for name, codec in CODECS.items():
        store = Waiting(MemoryStore())
        options: Any = {"chunks": (2048, 128), "compressors": codec}
        array = zarr.create_array(store, data=values.astype(np.float32), **options)
        store.seconds, source = wait, Source(array)
        calls = (lambda: source[WHOLE]), (lambda: array[WHOLE])  # noqa: B023
        runs = [[timed(call) for call in calls] for _ in range(rounds)]
        for place, kind in enumerate(("wall", "CPU")):
            ours, theirs = (
                statistics.median(run[who][place] for run in runs) for who in (0, 1)
            )
            click.echo(
                f"{name:6}{kind:5} ours {ours:6.1f}  Zarr {theirs:6.1f}  "
                f"ratio {ours / theirs:.2f}"
            )


if __name__ == "__main__":
    main()

"""A fit on hosts that share nothing but an object store; killed, and resumed.

X, `work_dir` and model are on an S3 server of this machine, a process of its own. Two
hosts have one worker each, a third one scheduler and client. The command of the client
is that of users; requests are those that the server has seen, by phase.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
import fsspec
import zarr

from tests.benchmarks import data
from tests.benchmarks.catalogue import Benchmark, Data
from tests.benchmarks.network import ROOT, Host, hosts, until
from tests.benchmarks.run import written
from tests.benchmarks.simulate import told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CODE = "import sys; from hkmeans_dask.cli.commands import main; sys.exit(main())"
PHASES = ("sample", "coarse", "partition", "fine", "label")
READ = (
    "import sys, time, zarr, dask.array as da; from distributed import Client\n"
    "client = Client(sys.argv[1]); began = time.perf_counter()\n"
    "da.from_zarr(zarr.open_array(sys.argv[2], mode='r')).sum().compute()\n"
    "print('read in', time.perf_counter() - began)"
)


ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Place:
    """The hosts, their S3 server, and one cluster on them after the other."""

    def __init__(self, log: Path, found: list[Host]) -> None:
        self.log = log
        self.front, *self.workers = found

    def start(self) -> None:
        """Start a scheduler and workers."""
        dask = (sys.executable, "-m", "dask")
        address = self.front.address
        scheduler = self.front.start(*dask, "scheduler", "--host", address)
        until(lambda: "Scheduler at" in self.front.said(), scheduler, self.front)
        for host in self.workers:
            limits = ("--nthreads", "1", "--memory-limit", "1GB", "--no-dashboard")
            host.start(
                *(*dask, "worker", self.scheduler, "--host", host.address, *limits)
            )

    @property
    def scheduler(self) -> str:
        """Its address."""
        return f"tcp://{self.front.address}:8786"

    def kill(self) -> None:
        """Kill all but the S3 server."""
        for host in (self.front, *self.workers):
            host.kill()
            (host.own / "said").unlink(missing_ok=True)

    def look(self) -> None:
        """Note peaks of memory."""
        self.front.look("scheduler")
        for number, host in enumerate(self.workers, 1):
            host.look(f"worker {number}")

    def requests(self, begin: float) -> list[tuple[float, str, str]]:
        """Give those since a time: when, method and path."""
        lines = (line.split(maxsplit=2) for line in self._lines())
        found = [(float(when), how, path) for when, how, path in lines]
        return [one for one in found if one[0] >= begin]

    def _lines(self) -> list[str]:
        return self.log.read_text().splitlines()[1:]

    def read(self) -> float:
        """Read X plainly on the workers; give the seconds."""
        reading = self.front.start(
            sys.executable, "-c", READ, self.scheduler, "s3://data/x.zarr"
        )
        if reading.wait():
            raise RuntimeError(self.front.said())
        return float(self.front.said().rpartition("read in")[2].split()[0])

    def fit(self, name: str, k: int, stop: Callable[[float], bool]) -> dict[str, Any]:
        """Run the command; give what it took, until it ended or was to be stopped."""
        places = ("s3://data/x.zarr", f"s3://data/{name}.zarr", "-k", str(k))
        work = ("--work-dir", f"s3://data/work-{name.partition('-')[0]}")
        began = time.time()
        process = self.front.start(
            *(sys.executable, "-c", CODE, "fit", *places, *work),
            *("--scheduler", self.scheduler),
        )
        ends: dict[str, float] = {}
        while process.poll() is None and not stop(began):
            self.look()
            for phase in PHASES:
                if f"hkmeans: {phase} " in self.front.said():
                    ends.setdefault(phase, time.time())
            time.sleep(0.2)
        ended = time.time()
        if process.poll():
            raise RuntimeError(self.front.said())
        found = self.requests(began)
        return {
            "seconds": ended - began,
            "requests": Counter(kind(*one[1:]) for one in found),
            "requests by phase": by_phase(found, ends),
        }


def kind(method: str, path: str) -> str:
    """Name a request as S3 does."""
    if method == "GET" and path.strip("/").count("/") == 0:
        return "LIST"
    return method


def by_phase(
    requests: list[tuple[float, str, str]], ends: dict[str, float]
) -> dict[str, dict[str, int]]:
    """Count requests by the phase that they came in."""
    found: dict[str, Counter[str]] = {}
    for when, method, path in requests:
        phase = next((p for p in ends if when <= ends[p]), "saving")
        found.setdefault(phase, Counter())[kind(method, path)] += 1
    return {phase: dict(counts) for phase, counts in found.items()}


def local(path: Path, k: int, folder: Path) -> tuple[float, dict[str, Any]]:
    """Fit the same array from this machine's disk, in threads."""
    with TemporaryDirectory(dir=folder, prefix="local-") as scratch:
        began = time.time()
        model = f"{scratch}/model.zarr"
        subprocess.run(
            [sys.executable, "-c", CODE, "fit", path, model, "-k", str(k), "--quiet"],
            check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )
        return time.time() - began, bits(model)


def bits(model: str) -> dict[str, Any]:
    """Give all that a fit found, for comparison."""
    group = zarr.open_group(model, mode="r")
    arrays: dict[str, Any] = {name: array[...] for name, array in group.arrays()}
    found = {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()}
    return found | {"fitted": group.attrs["fitted"]}


@contextmanager
def placed(folder: Path) -> Iterator[Place]:
    """Make hosts and an S3 server with an empty bucket."""
    with (
        TemporaryDirectory(dir=folder, prefix="hosts-") as scratch,
        hosts(("front", "one", "two"), Path(scratch), folder) as (address, found),
    ):
        log = Path(scratch, "requests")
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.s3", address, str(log)], cwd=ROOT
        )
        try:
            while not (log.exists() and log.read_text().endswith("\n")):
                time.sleep(0.05)
            os.environ["AWS_ENDPOINT_URL"] = log.read_text().splitlines()[0]
            fsspec.filesystem("s3").mkdir("data")
            yield Place(log, found)
        finally:
            server.kill()
            server.wait()


def measure(path: Path, k: int, folder: Path) -> dict[str, Any]:
    """Fit once undisturbed, once killed and resumed, once in threads."""
    os.environ |= ENVIRONMENT
    seconds, expected = local(path, k, folder)
    with placed(folder) as place:
        fsspec.filesystem("s3").put(
            f"{path}/", "data/x.zarr/", recursive=True, batch_size=2
        )
        place.start()
        before = place.read()
        whole = place.fit("whole", k, lambda _: False)
        after = place.read()
        place.kill()
        place.start()
        n_half = round(k**0.5) // 2
        cut = place.fit("cut", k, lambda began: n_fine(place, began) >= n_half)
        place.kill()
        place.start()
        resumed = place.fit("cut", k, lambda _: False)
        every = (place.front, *place.workers)
        peaks = {what: peak for host in every for what, peak in host.peaks.items()}
        same = bits("s3://data/whole.zarr") == expected
        same_resumed = bits("s3://data/cut.zarr") == expected
    return {
        "seconds, threads, local": seconds,
        "seconds, plain reads": {"before": before, "after": after},
        "whole": whole,
        "killed in fine after": cut["seconds"],
        "resumed": resumed,
        "peak bytes": peaks,
        "the bits of threads": {"whole": same, "resumed": same_resumed},
    }


def n_fine(place: Place, began: float) -> int:
    """Count big clusters whose results are there."""
    if "hkmeans: partition " not in place.front.said():
        return 0
    found = place.requests(began)
    return sum("/fine-" in path for _, how, path in found if how == "PUT")


@click.command(context_settings={"show_default": True})
@click.option("--features", default=4_000_000, help="Of 128 samples, float32.")
@click.option("--clusters", default=16_384)
@click.option("--cache", type=click.Path(path_type=Path), default=None)
@click.option("--json", "output", type=click.File("w"), help="Also write all of it.")
def main(features: int, clusters: int, cache: Path | None, output: Any) -> None:
    """Fit on two hosts that share nothing but an S3 server; kill all, and resume."""
    from tests.benchmarks.__main__ import CACHE

    rows = max(1, min(features // 8, data.CHUNK_BYTES // 512))
    write = partial(data.blobs_zarr, n_features=features, chunk_rows=rows)
    array = Data(f"blobs_{features}.zarr", write)
    folder = cache or CACHE
    with written(Benchmark(array, clusters, {}), folder) as path:
        found = measure(path, clusters, folder)
    for name, value in found.items():
        click.echo(f"{name:<28}{told(value)}")
    if output:
        json.dump(found, output, indent=2)

"""Fits too large to run: their real graphs, on workers that read and compute nothing.

A scheduler, a process of simulated workers (see `standins`) and this client are three
processes, so that the memory and the time of each are its own. X is a Zarr array of
the real shape and chunks, none of which is there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
import psutil
import zarr
from distributed import Client

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.planning.plan import size
from hkmeans_dask.runtime.execution import peak_memory
from hkmeans_dask.storage import source

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Simulated:
    """The shape of a fit."""

    n_chunks: int
    chunk_rows: int
    n_samples: int
    n_clusters: int

    def scaled(self, part: float) -> Simulated:
        """Fewer chunks."""
        n_chunks = max(1, round(self.n_chunks * part))
        return Simulated(n_chunks, self.chunk_rows, self.n_samples, self.n_clusters)


CASES = {
    "billion": Simulated(20_000, 50_000, 512, 100_000),
    "million_clusters": Simulated(800, 125_000, 128, 1_000_000),
}


@click.command(context_settings={"show_default": True})
@click.argument("names", nargs=-1, type=click.Choice(list(CASES)))
@click.option("--part", default=1.0, help="Part of the chunks.")
@click.option("--workers", default="2,64", help="Numbers of workers.")
@click.option("--json", "output", type=click.File("w"), help="Also write all of it.")
def main(names: tuple[str, ...], part: float, workers: str, output: Any) -> None:
    """Simulate fits: 10^9 x 512 into 100,000 clusters, 10^8 x 128 into 10^6."""
    found = []
    for name in names or CASES:
        for n_workers in map(int, workers.split(",")):
            one = simulate(CASES[name].scaled(part), n_workers)
            found.append({"case": name, "part": part, "workers": n_workers, **one})
            click.echo("\n".join(f"{key:<28}{told(one[key])}" for key in one) + "\n")
    if output:
        json.dump(found, output, indent=2)


def told(value: Any) -> str:
    """Write a number, or numbers by name."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {told(one)}" for key, one in value.items())
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value


def simulate(case: Simulated, n_workers: int) -> dict[str, Any]:
    """Fit once, and tell what it took."""
    with TemporaryDirectory(prefix="simulated-") as folder:
        shape = (case.n_chunks * case.chunk_rows, case.n_samples)
        chunks = (case.chunk_rows, case.n_samples)
        path = Path(folder, "x.zarr")
        zarr.create_array(path, shape=shape, chunks=chunks, dtype="f4")
        X = zarr.open_array(path, mode="r")
        model = HierarchicalKMeans(case.n_clusters, work_dir=Path(folder, "work"))
        with _all_there(), processes(Path(folder), n_workers) as scheduler:
            plan = model.plan(X)
            own = psutil.Process()
            began = time.perf_counter(), _spent(own), _spent(scheduler)
            model.fit(X)
            ended = time.perf_counter(), _spent(own), _spent(scheduler)
            held = _peak(scheduler.pid)
        seconds, cpu, used = (b - a for a, b in zip(began, ended, strict=True))
        done = json.loads(Path(folder, "done.json").read_text())
        files = Path(folder, "work").rglob("*")
        written = sum(file.stat().st_size for file in files if file.is_file())
    n_tasks = sum(done["ran"].values())
    return {
        "chunks": case.n_chunks,
        "workers": n_workers,
        "seconds": seconds,
        "seconds by phase": model._seconds,
        "client, CPU seconds": cpu,
        "client, peak bytes": peak_memory(),
        "scheduler, CPU ms a task": 1000 * used / n_tasks,
        "scheduler, peak bytes": held,
        "tasks": n_tasks,
        "tasks of the plan": sum(plan.tasks.values()),
        "tasks by function": done["ran"],
        "bytes between workers": done["moved"],
        "bytes read of X": sum(done["read"]),
        "bytes read, plan": plan.n_passes * 4 * shape[0] * shape[1],
        "least, most read by a worker": {
            "least": min(done["read"]),
            "most": max(done["read"]),
        },
        "workspace, bytes of counts": written,
        "workspace, plan": size(plan.workspace_bytes),
        "worker limit, plan": size(plan.worker_limit),
    }


@contextmanager
def _all_there() -> Iterator[None]:
    """Let no chunk of a store be missing."""
    original = source._chunks_there
    source._chunks_there = lambda array: (None, frozenset())
    try:
        yield
    finally:
        source._chunks_there = original


def _spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@contextmanager
def processes(folder: Path, n_workers: int) -> Iterator[psutil.Process]:
    """Start a scheduler and a process of workers, and be its client; give the first."""
    found = folder / "scheduler.json"
    command = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    with _process("dask", *command, "--scheduler-file", str(found)) as scheduler:
        while not found.exists():
            time.sleep(0.1)
        address = json.loads(found.read_text())["address"]
        what = (address, str(n_workers), str(folder / "done.json"))
        with _process("tests.benchmarks.standins", *what) as workers:
            with Client(address) as client:
                client.wait_for_workers(n_workers)
                yield psutil.Process(scheduler.pid)
            # A default client that shuts down leaves dask's setting behind.
            with Client(address, set_as_default=False) as client:
                client.shutdown()
            workers.wait(60)


@contextmanager
def _process(module: str, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", module, *args]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()

"""Commands in processes of their own, which tests watch and stop.

They are forked from a server that has imported what takes seconds to import. Sizes of
the package are scaled down in them, so that small arrays have many blocks, parts and
files, as large ones do.
"""

import atexit
import importlib
import multiprocessing
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import zarr

from tests.hpc.hosts import enter

PHASES = ("sample", "coarse", "partition", "fine", "label")

PATIENCE = 120
"""Seconds that a command may take, where others work on the machine too."""

LEFT = {"manifest.json", "nonce", "model.npz", "labels", "done"}
"""Kinds of files that stay in the folder of a fit that is done."""

SIZES = {
    "inputs.arrays.BLOCK_BYTES": 10_000 * 32 * 4,
    "kmeans.sampling.ONE_PART_BYTES": 2**20,
    "kmeans.sampling.PART_BYTES": 2**20,
    "stages.label.LABELS_TOGETHER": 2**15,
    "storage.outputs.CHUNK_BYTES": 2**19,
}

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    [__name__, "dask_ml.utils", "distributed", "hkmeans_dask.estimator"]
)


def _run(args, log, sizes, temporary, environment, namespace):
    """Be the process: what `hkmeans-dask` does, in a process group of its own."""
    import dask

    from hkmeans_dask.cli.commands import main

    os.setsid()
    if namespace:
        enter(namespace)
    os.environ.clear()  # it is that of when the server began
    os.environ.update(environment)
    # The jobs that a shell has in the background ignore Ctrl-C, and all they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
    os.dup2(os.open(f"{log}.out", os.O_WRONLY | os.O_CREAT), 1)
    for name, value in sizes.items():
        module, _, constant = f"hkmeans_dask.{name}".rpartition(".")
        setattr(importlib.import_module(module), constant, value)
    dask.config.set(temporary_directory=str(temporary))
    try:
        code = main([str(arg) for arg in args])
        Path(f"{log}.io").write_text(Path("/proc/self/io").read_text())
        sys.exit(code)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out


class Command:
    """A command that runs."""

    def __init__(self, log, args, sizes=SIZES, temporary="/tmp", namespace=None):
        self._log = log
        how = (args, log, sizes, temporary, dict(os.environ), namespace)
        self._process = _server.Process(target=_run, args=how)
        self._process.start()
        self.pid = self._process.pid

    def _beside(self, kind):
        return self._log.with_name(f"{self._log.name}.{kind}")

    def said(self):
        """Give the lines on stderr."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def complaints(self):
        """Give those that are not about phases, nor empty: click ends the ^C so."""
        return [
            line for line in self.said() if line and not line.startswith("hkmeans: ")
        ]

    def seconds(self):
        """Tell how long each phase took."""
        lines = self._beside("out").read_text().splitlines()
        rows = (line.split(", ")[1].split() for line in lines if "seconds, " in line)
        return {phase: float(seconds) for phase, seconds in rows}

    def io(self):
        """Tell the bytes that it read and wrote, of or to a cache too."""
        lines = self._beside("io").read_text().split("\n")[:2]
        return np.array([int(line.split()[1]) for line in lines])

    def wait(self):
        """Wait for the end; negative is the signal that ended it."""
        self._process.join(PATIENCE)
        assert self._process.exitcode is not None, self.said()
        return self._process.exitcode

    def until(self, sign):
        """Wait until something is true, if the process lives so long; give it."""
        deadline = time.monotonic() + PATIENCE
        while not (found := sign()) and self._process.is_alive():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.001)
        return found

    def until_phase(self, phase):
        """Wait for the beginning of a phase."""
        self.until(lambda: f"hkmeans: {phase} ..." in self.said())

    def stand_still(self):
        """Let it do nothing until `go_on`."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self):
        """End `stand_still`."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self, number, *, group=False):
        """Send a signal, to all processes that it started too if asked; wait."""
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)
        return self.wait()

    def family(self):
        """Give the processes that it started."""
        return psutil.Process(self.pid).children(recursive=True)

    def close(self):
        """Leave no process."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join()
        self._process.close()


class Whole(NamedTuple):
    """A fit that nothing interrupted."""

    command: Command
    bits: dict[str, object]
    model: Path


@contextmanager
def commands(logs):
    """Give a function that starts commands, which end here at the latest."""
    started = []

    def start(*args, **options):
        started.append(Command(logs / str(len(started)), args, **options))
        return started[-1]

    try:
        yield start
    finally:
        for command in started:
            command.close()


def run(start, *args, code=0, **options):
    """Run a command to its end."""
    command = start(*args, **options)
    assert command.wait() == code, command.said()
    return command


def write_input(place):
    """Write an array in spatial order that takes a second to cluster."""
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(size=(300_000, 32)), axis=0) / 50
    values = (walk + rng.normal(size=walk.shape)).astype(np.float32)
    zarr.create_array(place, data=values, chunks=(10_000, 32))
    return place


def bits(model):
    """Give all that a fit found, for comparison."""
    group = zarr.open_group(model, mode="r")
    arrays = {name: array[...] for name, array in group.arrays()}
    found = {n: (str(a.dtype), a.shape, a.tobytes()) for n, a in arrays.items()}
    return found | {"fitted": group.attrs["fitted"]}


def fit(source, folder, *more):
    """Give the arguments of a fit that works in a folder."""
    places = ("fit", source, folder / "model", "--work-dir", folder / "work")
    return (*places, "-k", 400, "--verbose", 2, *more)


def size_of(folder):
    """Give the bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def left(work_dir):
    """Give the kinds of files in the only folder there."""
    (folder,) = work_dir.iterdir()
    return {path.name.split("-")[0] for path in folder.iterdir()}

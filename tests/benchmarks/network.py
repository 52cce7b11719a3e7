"""Hosts on one machine: network namespaces on a bridge, each with its own folders.

What they share is the network, and the files of the system with what is installed. Of
the folder that is given each sees one of its own in its place. For root, on Linux with
iproute2.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).parents[2]
"""Where this package and the tests are."""

ENTER = 'mount --bind "$1" "$2" && cd "$2" && shift 2 && TMPDIR=$PWD exec "$@"'


def peak_of(process: psutil.Process) -> int:
    """Tell the resident memory of a process at its highest; 0 when it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


class Host:
    """A host.

    Parameters
    ----------
    space : str
        Its network namespace.
    address : str
    own : Path
        Its folder.
    hidden : Path
        What it sees its folder in the place of.
    """

    def __init__(self, space: str, address: str, own: Path, hidden: Path) -> None:
        self.address, self.own = address, own
        self._space, self._hidden = space, hidden
        own.mkdir()
        self._started: list[subprocess.Popen[bytes]] = []
        self.peaks: dict[str, int] = {}
        """Of its processes, by what they are: resident memory at its highest."""

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command there; what it says is in files of its folder."""
        outside = ("ip", "netns", "exec", self._space)
        places = (str(self.own), str(self._hidden))
        with (self.own / "said").open("ab") as said:
            process = subprocess.Popen(
                [*outside, "sh", "-c", ENTER, "sh", *places, *command],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                start_new_session=True,
                stdout=said,
                stderr=said,
            )
        self._started.append(process)
        return process

    def said(self) -> str:
        """Give what its processes have said."""
        return (self.own / "said").read_text()

    def look(self, role: str) -> None:
        """Note the peaks of memory of its processes."""
        for process in self._started:
            with suppress(psutil.NoSuchProcess):
                first = psutil.Process(process.pid)
                for one in (first, *first.children(recursive=True)):
                    is_client = "hkmeans_dask" in " ".join(one.cmdline())
                    name = "client" if is_client else role
                    self.peaks[name] = max(self.peaks.get(name, 0), peak_of(one))

    def kill(self) -> None:
        """Let its processes end at once."""
        for process in self._started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._started.clear()


@contextmanager
def hosts(
    names: Sequence[str], folder: Path, hidden: Path
) -> Iterator[tuple[str, list[Host]]]:
    """Make hosts; give the address of what they all reach, and them.

    Parameters
    ----------
    names : sequence of str
    folder : Path
        Where those are.
    hidden : Path
        What they see folders of their own in the place of.
    """
    bridge, net = f"hk{os.getpid()}", f"10.213.{os.getpid() % 250}"
    with ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{net}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        found = []
        for number, name in enumerate(names, 1):
            space, wire = f"{bridge}-{name}", f"{bridge}-{number}"
            _ip("netns", "add", space)
            stack.callback(_ip, "netns", "del", space)
            far = ("peer", "name", "eth0", "netns", space)
            _ip("link", "add", wire, "type", "veth", *far)
            stack.callback(_ip, "link", "del", wire)  # with a space it goes late
            _ip("link", "set", wire, "master", bridge, "up")
            _ip("-n", space, "addr", "add", f"{net}.{number}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", space, "link", "set", device, "up")
            found.append(Host(space, f"{net}.{number}", folder / name, hidden))
            stack.callback(found[-1].kill)
        yield f"{net}.254", found


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True)


def until(
    sign: Callable[[], bool], process: subprocess.Popen[bytes], host: Host
) -> None:
    """Wait until something is true, while a process lives."""
    while not sign():
        if process.poll() is not None:
            raise RuntimeError(f"It ended before: {host.said()}")
        time.sleep(0.02)

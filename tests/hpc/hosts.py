"""Hosts on this machine: network namespaces on a switch, which nobody else sees."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import uuid
from contextlib import contextmanager
from dataclasses import dataclass


def ip(*words):
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True)


def why_not():
    """Say why there can be no hosts here, if so."""
    if os.geteuid():
        return "only root may make network namespaces"
    for command, package in {"ip": "iproute2", "unshare": "util-linux"}.items():
        if not shutil.which(command):
            return f"there is no command {command} ({package} has it)"
    name = f"hk-{uuid.uuid4().hex[:8]}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"no network namespace can be made here: {tried.stderr.strip()}"
    ip("netns", "del", name)
    return None


def enter(file):
    """Let this thread, and those that it starts, be in a network namespace."""
    with open(file) as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):
            raise OSError(ctypes.get_errno(), f"cannot enter {file}")


@dataclass(frozen=True)
class Host:
    """A namespace with an address."""

    name: str
    address: str

    @property
    def file(self):
        """What stands for the namespace."""
        return f"/run/netns/{self.name}"

    def cut_off(self):
        """Let nothing come or go."""
        ip("-n", self.name, "link", "set", "eth0", "down")

    def connect(self):
        """Let all come and go."""
        ip("-n", self.name, "link", "set", "eth0", "up")

    @contextmanager
    def inside(self):
        """Be there, with this thread and those that begin inside."""
        before = f"/proc/self/task/{ctypes.CDLL(None).gettid()}/ns/net"
        with open(before) as home:
            enter(self.file)
            try:
                yield
            finally:
                enter(f"/proc/self/fd/{home.fileno()}")

    @contextmanager
    def running(self, *words, before=(), **options):
        """Run a module of Python there, which ends here with all that it started."""
        command = ["ip", "netns", "exec", self.name, *before, sys.executable, "-m"]
        process = subprocess.Popen(
            [*command, *map(str, words)], start_new_session=True, **options
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def showing(folder, place):
    """Give what shows a folder in another place, to the command that follows."""
    return _mounting(f"mount --bind '{folder}' '{place}'")


def hiding(*folders):
    """Give what lets folders be empty for the command that follows, but not for us."""
    return _mounting(*(f"mount -t tmpfs none '{folder}'" for folder in folders))


def _mounting(*mounts):
    script = " && ".join([*mounts, 'exec "$@"'])
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


@contextmanager
def network(*names):
    """Give hosts that reach each other."""
    prefix = f"hk-{uuid.uuid4().hex[:8]}"
    made, switch = [], f"{prefix}-switch"
    try:
        for name in (switch, *(f"{prefix}-{name}" for name in names)):
            ip("netns", "add", name)
            made.append(name)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        yield [_connected(switch, *host) for host in enumerate(made[1:], 1)]
    finally:
        for name in made:
            ip("netns", "del", name)


def _connected(switch, number, name):
    host = Host(name, f"10.0.0.{number}")
    port = f"port{number}"
    pair = ("type", "veth", "peer", "name", "eth0", "netns", name)
    ip("-n", switch, "link", "add", port, *pair)
    ip("-n", switch, "link", "set", port, "master", "bridge", "up")
    ip("-n", name, "addr", "add", f"{host.address}/24", "dev", "eth0")
    ip("-n", name, "link", "set", "lo", "up")
    host.connect()
    return host

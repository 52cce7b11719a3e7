"""What only Unix has is not needed to import, to fit in threads, to save and load."""

import os
import subprocess
import sys

import numpy as np
import pytest

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.workspace.plain import publish

ELSEWHERE = """
import os, signal, sys

# First what the dependencies ask of the system they are on.
import dask.array, numpy, scipy.sparse, sklearn.cluster, zarr, numcodecs, click, psutil
import dask_ml.utils

for name in ("resource", "fcntl", "termios", "pwd", "grp", "tty", "pty", "syslog"):
    sys.modules[name] = None
for name in ("fork", "getuid", "geteuid", "setsid", "killpg", "sysconf"):
    delattr(os, name)
for name in ("SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "setitimer", "alarm"):
    delattr(signal, name)

import hkmeans_dask
from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli.commands import main

X = numpy.random.default_rng(0).normal(size=(300, 6))
model = HierarchicalKMeans(9, work_dir="work").fit(X)
model.to_zarr("model.zarr")
again = HierarchicalKMeans.from_zarr("model.zarr")
numpy.save("labels.npy", again.labels_)
z = zarr.create_array("x.zarr", shape=X.shape, chunks=(100, 6), dtype="f8")
z[...] = X
code = main(["fit", "x.zarr", "cli.zarr", "-k", "9", "--quiet"])
code = code or main(["report", "cli.zarr"])
sys.exit(code)
"""


def test_nothing_of_unix_is_needed(tmp_path):
    command = [sys.executable, "-c", ELSEWHERE]
    ran = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    X = np.random.default_rng(0).normal(size=(300, 6))
    expected = HierarchicalKMeans(9).fit(X).labels_
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), expected)


@pytest.mark.parametrize("links", ["work", "are refused", "do not exist"])
def test_the_first_to_publish_wins(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    if links == "are refused":  # FAT, some FUSE and SMB mounts
        monkeypatch.setattr(os, "link", refuse)
    elif links == "do not exist":
        monkeypatch.delattr(os, "link")
    path = tmp_path / "file"
    publish(path, b"first")
    publish(path, b"second")
    assert path.read_bytes() == b"first"
    assert [*tmp_path.iterdir()] == [path]


def test_a_work_dir_needs_no_hard_links(tmp_path, monkeypatch):
    X = np.random.default_rng(0).normal(size=(300, 6))
    expected = HierarchicalKMeans(9).fit(X).labels_

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for _ in range(2):
        model = HierarchicalKMeans(9, work_dir=tmp_path).fit(X)
        np.testing.assert_array_equal(model.labels_, expected)

"""Fits that are interrupted and go on, and files that are damaged in between."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hkmeans_dask import fitting
from hkmeans_dask.workspace.files import LAYOUT


def same(model, expected):
    """Compare all that a fit found."""
    assert_array_equal(np.asarray(model.labels_), np.asarray(expected.labels_))
    for name in ("cluster_centers_", "coarse_centers_", "parents_", "sizes_"):
        assert_array_equal(getattr(model, name), getattr(expected, name))
    assert model.inertia_ == expected.inertia_


def only(parent):
    (folder,) = parent.iterdir()
    return folder


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


DONE = ["done", "labels-0.npz", "manifest.json", "model.npz", "nonce"]


class Interrupted(RuntimeError):
    """What stops a fit in these tests."""


def interrupt(monkeypatch, stage, model, X):
    """Fit, and stop where a stage begins."""

    def stop(*args, **kwargs):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(fitting, stage, stop)
        with pytest.raises(Interrupted):
            model.fit(X)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def empty(path):
    path.write_bytes(b"")


def flip_data(path):
    """Change one bit in the middle of the largest array."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    if path.suffix == ".npz":
        with np.load(path) as file:
            arrays = [file[name] for name in file.files if name != LAYOUT]
        largest = max(arrays, key=lambda array: array.nbytes)
        middle = data.index(largest.tobytes()) + largest.nbytes // 2
    data[middle] ^= 1
    path.write_bytes(data)

"""Whatever becomes of the files of a work_dir, a next fit gives the same bits.

Each example takes the folder that a fit left, does something to its files, and fits
again. What is beside the folder stays as it is, and memory is never taken on the word
of a file.
"""

import json
import os
import pickle
import random
import resource
import shutil
import socket
import subprocess
import sys
import warnings
import zipfile
import zlib

import dask.array as da
import numpy as np
import psutil
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.kmeans import sampling
from hkmeans_dask.stages import label
from hkmeans_dask.workspace.files import LAYOUT
from tests.damage import ANYWHERE, OF_FILES, Beside, device, sparse
from tests.resuming import interrupt, only, same
from tests.strategies import quick

VALUES = np.random.default_rng(0).normal(size=(160, 6))
X = da.from_array(VALUES, (40, 6))
ALONG_SAMPLES = da.from_array(VALUES, (40, 3))

STATES = {
    "finished": (X, None),
    "without labels": (X, "label_features"),
    "with partitions": (X, "train_fine"),
    "with rows": (X, "train_coarse"),
    "with a copy": (ALONG_SAMPLES, "train_coarse"),
    "of a copy": (ALONG_SAMPLES, None),
}

STRAY = (
    "coarse.npz",
    "training-0.raw",
    "fine-0.npz",
    "refine-1.npz",
    "model.npz",
    "a..b.npz",
    "copy-0-0.raw",
    ".x",
    "lock-x",
    "lock-a-b",
    f"lock-{socket.gethostname()}-{os.getpid()}",
    f"lock-{socket.gethostname()}-{10**30}",
)
"""Names that something may be under where nothing was."""

LIMIT = 150 * 2**20
"""Bytes that a fit of the small array may take, at most."""


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Let small arrays have many files, as large ones do."""
    monkeypatch.setattr(sampling, "ONE_PART_BYTES", 0)
    monkeypatch.setattr(sampling, "PART_BYTES", 4000)
    monkeypatch.setattr(label, "LABELS_TOGETHER", 80)
    for name in ("JOINED_BYTES", "BLOCK_BYTES"):
        monkeypatch.setattr(f"hkmeans_dask.inputs.arrays.{name}", 2000)
    monkeypatch.setattr("hkmeans_dask.fitting.is_known", lambda X: True)


def fit(values, work_dir=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return HierarchicalKMeans(9, work_dir=work_dir).fit(values)


def afresh(parent, work):
    """Copy what a fit left, and give the folder of the copy."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(parent, work)
    return only(work)


class Opened:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        """Be a file that is opened to write."""
        return open, (str(self.trace), "w")


# What becomes of a file


def swapped(path, beside, chance):
    other = chance.choice(files(path.parent))
    mine, its = path.read_bytes(), other.read_bytes()
    path.write_bytes(its)
    other.write_bytes(mine)


def copied(path, beside, chance):
    path.write_bytes(chance.choice(files(path.parent)).read_bytes())


def text(path, beside, chance):
    path.write_text(chance.choice(["{}", "[" * 9999, '{"crc": 0, "fit": ""}', "null"]))


def pickled(path, beside, chance):
    value = np.array([Opened(beside.pickled)], object)
    if chance.random() < 0.5:
        path.write_bytes(pickle.dumps(value))
    else:
        with path.open("wb") as file:
            np.savez(file, labels=value, total=value, of=value)


def saved_by_numpy(path, beside, chance):
    with path.open("wb") as file:
        np.savez_compressed(file, labels=np.zeros(50), total=np.zeros(10**6))


def forged(path, beside, chance):
    """Let an archive tell of other arrays than it has; all checksums are right."""
    if path.suffix != ".npz":
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
        comment = archive.comment
    layout = json.loads(members[LAYOUT])
    name = chance.choice(sorted(layout))
    dtype, shape = layout[name]
    layout[name] = chance.choice(
        [
            (dtype, [2**40]),
            (dtype, [2**62, 2**62]),
            (dtype, [-1, *shape]),
            (dtype, [1e300]),
            (dtype, "many"),
            ("O", shape),
            ("V0", shape),
            ("complex512", shape),
            None,
        ]
    )
    members[LAYOUT] = json.dumps(layout)
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        archive.comment = comment


def bomb(path, beside, chance):
    """Let an archive be small here and large in memory."""
    with zipfile.ZipFile(path) as archive:
        comment = archive.comment
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(LAYOUT, bytes(LIMIT))
        archive.comment = comment


def larger_than_it_is(path, beside, chance):
    """Let the directory of an archive tell of members of 4 GB."""
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        data[at + 20 : at + 28] = (2**32 - 2).to_bytes(4, "little") * 2
        at = data.find(b"PK\x01\x02", at + 1)
    path.write_bytes(data)


def newer(path, beside, chance):
    """Let a manifest be that of another version, and another fit."""
    manifest = path.parent / "manifest.json"
    if manifest.is_file():
        content = json.loads(json.loads(manifest.read_text())["fit"])
        content |= chance.choice(
            [{"hkmeans_dask": "99.0"}, {"seed": 5}, {"seed": None}, {"parameters": {}}]
        )
        written = json.dumps(content)
        crc = zlib.crc32(written.encode())
        manifest.write_text(json.dumps({"crc": crc, "fit": written}))


CHANGES = (
    *(*OF_FILES, swapped, copied, text, pickled, saved_by_numpy),
    *(forged, larger_than_it_is, newer),
)


def files(parent):
    return sorted(path for path in parent.iterdir() if path.is_file())


def change(parent, beside, chance):
    path = chance.choice([*sorted(parent.iterdir()), *(parent / n for n in STRAY)])
    there = path.is_file() and not path.is_symlink()
    if not there and os.path.lexists(path):
        return
    done = chance.choice(CHANGES if there else ANYWHERE)
    done(path, beside, chance)


@pytest.fixture
def left(request, tmp_path, monkeypatch):
    """Give X and the folder of its fits as one left it."""
    values, stage = STATES[request.param]
    parent = tmp_path / "left"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if stage is None:
            fit(values, parent)
        else:
            interrupt(
                monkeypatch, stage, HierarchicalKMeans(9, work_dir=parent), values
            )
    return values, parent, Beside(tmp_path), fit(values)


every_state = pytest.mark.parametrize("left", STATES, indirect=True)


@every_state
def test_changed_files_cost_no_bit(left, tmp_path):
    values, parent, beside, expected = left

    @settings(quick, max_examples=25, phases=[Phase.generate])
    @given(st.integers(0, 2**32), st.integers(1, 4))
    def check(seed, times):
        chance, folder = random.Random(seed), afresh(parent, tmp_path / "work")
        for _ in range(times):
            change(folder, beside, chance)
        same(fit(values, folder.parent), expected)
        assert beside.seen() == beside.before
        same(fit(values, folder.parent), expected)

    check()


@pytest.mark.slow
@every_state
@pytest.mark.parametrize("done", CHANGES, ids=lambda change: change.__name__)
def test_each_change_of_each_file_costs_no_bit(left, tmp_path, done):
    values, parent, beside, expected = left
    for number, path in enumerate(files(only(parent))):
        folder = afresh(parent, tmp_path / "work")
        done(folder / path.name, beside, random.Random(number))
        same(fit(values, folder.parent), expected)
        assert beside.seen() == beside.before


@pytest.mark.parametrize("change", ANYWHERE)
@pytest.mark.parametrize("left", ["finished"], indirect=True)
def test_what_is_no_file_is_in_nobodys_way(left, tmp_path, change):
    values, parent, beside, expected = left
    for number, name in enumerate(STRAY):
        folder = afresh(parent, tmp_path / "work")
        change(folder / name, beside, random.Random(number))
        same(fit(values, folder.parent), expected)
        assert beside.seen() == beside.before


@pytest.mark.parametrize("left", ["finished"], indirect=True)
def test_the_folder_of_a_fit_may_be_something_else(left, tmp_path):
    """A link to elsewhere goes, and nothing of what is there; a file is named."""
    values, parent, beside, expected = left
    folder = afresh(parent, tmp_path / "work")
    folder.rename(beside.folder / "moved")
    folder.symlink_to(beside.folder / "moved")
    (folder / "manifest.json").write_bytes(b"damaged")
    before = files(beside.folder / "moved")
    same(fit(values, folder.parent), expected)
    assert files(beside.folder / "moved") == before
    assert not folder.is_symlink()
    for path in (folder, folder.parent):
        shutil.rmtree(path)
        path.write_bytes(b"file")
        with pytest.raises(NotADirectoryError, match="should be a folder of inter"):
            fit(values, folder.parent)
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("left", ["finished"], indirect=True)
def test_memory_is_not_taken_on_the_word_of_a_file(left, tmp_path):
    values, parent, beside, expected = left
    works = []
    for name in ("model.npz", "labels-0.npz", "manifest.json", "nonce"):
        lies = (bomb, larger_than_it_is) if name.endswith("npz") else ()
        for done in (sparse, device, *lies):
            works.append(tmp_path / f"{name}-{done.__name__}")
            done(afresh(parent, works[-1]) / name, beside, random.Random(0))
    limited = f"from tests.workspace.test_fuzz import limited; limited({works!r})"
    command = [sys.executable, "-c", limited.replace("PosixPath", "")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    for work in works:
        same(fit(values, work), expected)


def limited(works):
    """Fit in each of these folders, with little memory beyond what is taken."""
    fit(X)
    taken = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (taken + LIMIT,) * 2)
    for work in works:
        fit(X, work)

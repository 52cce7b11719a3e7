"""Files that are altered, and disks that are full: said, and made good if possible."""

import os
import signal
import subprocess

import dask.array as da
import numpy as np
import pytest
import zarr

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.workspace.files import LAYOUT
from tests.processes import LEFT, bits, commands, fit, left, run
from tests.slow import others_slow

pytestmark = pytest.mark.slow

# Altered files

KINDS = ("training", "coarse", "partition", "shares", "fine", "model", "labels")
"""In the order in which they are written."""


def interrupted_at(kind, start, command, folder):
    """Kill a fit that has written one kind of file, but none of the kinds after."""
    running = start(*command)
    running.until(lambda: list(folder.glob(f"work/*/{kind}*.npz")))
    running.stop(signal.SIGKILL)
    for later in KINDS[KINDS.index(kind) + 1 :]:
        for path in folder.glob(f"work/*/{later}*.npz"):
            path.unlink()


def flip(path, rng, values=None):
    """Change a random byte, of these values if given."""
    data = bytearray(path.read_bytes())
    first, n_bytes = 0, len(data)
    if values is not None:
        first, n_bytes = data.index(values.tobytes()), values.nbytes
    data[first + rng.integers(n_bytes)] ^= rng.integers(1, 256)
    path.write_bytes(data)


def flip_value(path, rng):
    """Change a random byte of all arrays in a file."""
    with np.load(path) as file:
        arrays = [file[name] for name in sorted(file.files) if name != LAYOUT]
    n_bytes = np.array([array.nbytes for array in arrays])
    flip(path, rng, arrays[rng.choice(len(arrays), p=n_bytes / n_bytes.sum())])


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_is_noticed_and_costs_no_bit(
    kind, start, source, whole, tmp_path
):
    command = fit(source, tmp_path, "--overwrite")
    interrupted_at(kind, start, command, tmp_path)
    rng = np.random.default_rng(KINDS.index(kind))
    path = rng.choice(sorted(tmp_path.glob(f"work/*/{kind}*.npz")))
    flip_value(path, rng)
    again = run(start, *command)
    (said,) = again.complaints()
    assert said.startswith(f"hkmeans-dask: warning: The workspace file {path.stem} is")
    assert bits(tmp_path / "model") == whole.bits
    assert left(tmp_path / "work") == LEFT


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("manifest.json", ["manifest.json is damaged; the fit begins anew."]),
        ("nonce", []),
    ],
)
def test_a_flipped_byte_of_what_names_a_fit_costs_no_bit(
    name, warning, start, source, whole, tmp_path
):
    """Any nonce is as good as another, if it is the same for all."""
    interrupted_at("coarse", start, fit(source, tmp_path), tmp_path)
    (path,) = tmp_path.glob(f"work/*/{name}")
    flip(path, np.random.default_rng(0))
    again = run(start, *fit(source, tmp_path))
    said = [line.rpartition("/")[2] for line in again.complaints()]
    assert said == warning
    assert bits(tmp_path / "model") == whole.bits


# Input that changes


def altered_after(block, sentinel, flag):
    """Give other values in the last read: the first one leaves a sentinel per block."""
    place = sentinel / f"{block[0, 0]}"
    if flag and place.exists():
        return block + 1
    place.touch()
    return block


@pytest.mark.parametrize("changes", [True, False])
def test_x_that_changes_between_the_reads_is_an_error(changes, tmp_path):
    values = np.random.default_rng(0).normal(size=(4000, 5)).astype(np.float32)
    X = da.from_array(values, chunks=(1000, 5))
    X = X.map_blocks(altered_after, tmp_path, changes, meta=X._meta)
    model = HierarchicalKMeans(n_clusters=20)
    if not changes:
        assert model.fit(X).n_clusters_ == 20
        return
    with pytest.raises(ValueError, match="X changed while it was read"):
        model.fit(X)


# Full disks


@pytest.fixture
def disk(tmp_path):
    """Mount a file system of 16 KiB, which may be made larger."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def resize(disk, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def refused(start, *command):
    """Run into the full disk, and give the line that says so."""
    (said,) = run(start, *command, code=2).complaints()
    assert said.startswith("hkmeans-dask: error: ")
    assert " is full (No space left on device)" in said
    return said


WHERE = {"threads": (), "workers": ("--workers", 2)}


@pytest.mark.parametrize("where", others_slow(WHERE))
def test_a_fit_goes_on_when_its_work_dir_has_space(
    where, disk, start, source, whole, tmp_path
):
    resize(disk, "2m")
    command = fit(source, tmp_path, "--work-dir", disk, *WHERE[where])
    assert f"{disk}" in refused(start, *command)
    assert not (tmp_path / "model").exists()
    (folder,) = disk.iterdir()
    names = {path.name.split("-")[0] for path in folder.iterdir()}
    assert names == {"manifest.json", "nonce", "training"}
    resize(disk, "1g")
    assert run(start, *command).complaints() == []
    assert bits(tmp_path / "model") == whole.bits
    assert left(disk) == LEFT


def test_a_work_dir_that_is_full_at_once_is_said(disk, start, source, whole, tmp_path):
    resize(disk, "4k")
    (disk / "full").write_bytes(bytes(4096))
    command = fit(source, tmp_path, "--work-dir", disk)
    refused(start, *command)
    resize(disk, "1g")
    assert run(start, *command).complaints() == []
    assert bits(tmp_path / "model") == whole.bits


WRITING = {
    "fit": ("fit {source} {output} -k 400 --work-dir {work}", "200k"),
    "transform": ("transform {source} {model} {output}", "16k"),
    "inverse-transform": ("inverse-transform {reduced} {model} {output}", "2m"),
    "predict": ("predict {source} {model} {output}", "200k"),
}
"""Commands, and sizes of disks that their outputs fill."""


@pytest.fixture(scope="module")
def reduced(source, whole, tmp_path_factory):
    """Transform the input."""
    folder = tmp_path_factory.mktemp("reduced")
    with commands(folder) as start:
        run(start, "transform", source, whole.model, folder / "reduced")
    return folder / "reduced"


def contents(output):
    """Give what a command wrote, an array or a model."""
    node = zarr.open(output, mode="r")
    return node[...].tobytes() if isinstance(node, zarr.Array) else bits(output)


@pytest.mark.parametrize("where", others_slow(WHERE))
@pytest.mark.parametrize("name", WRITING)
def test_an_output_that_finds_no_space_leaves_nothing(
    name, where, disk, start, source, whole, reduced, tmp_path
):
    text, size = WRITING[name]
    places = {"source": source, "model": whole.model, "reduced": reduced}

    def command(output):
        return text.format(**places, output=output, work=tmp_path / "work").split()

    resize(disk, size)
    said = refused(start, *command(disk / "output"), *WHERE[where])
    assert f"{disk / 'output'}" in said
    assert os.listdir(disk) == []
    resize(disk, "1g")
    assert run(start, *command(disk / "output")).complaints() == []
    run(start, *command(tmp_path / "elsewhere"))
    assert contents(disk / "output") == contents(tmp_path / "elsewhere")
    assert os.listdir(disk) == ["output"]

"""Models that were cut off or altered: one line, nothing made of them."""

import copy
import json
import random
import resource
import shutil

import numpy as np
import psutil
import pytest
import zarr

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli.commands import main
from tests.damage import OF_FILES, Beside, device, folder, pipe, sparse
from tests.slow import others_slow

X = np.random.default_rng(0).normal(size=(200, 5)).astype("f4")
JUNK = (None, 0, -1, 1e99, "x", [], {}, [1], True, 2**70, {"a": 1}, [-5], ["a"])
SEEDS = [*range(25), *others_slow(range(24, 200))[1:]]
LIMIT = 2 * 2**30
"""Bytes of address space that commands may take of what is damaged, at most."""
COMMANDS = (
    ("info", "w"),
    ("predict", "x", "w", "o", "--overwrite", "--quiet"),
    ("transform", "x", "w", "o", "--overwrite", "--quiet"),
    ("report", "w", "-o", "r.html", "--overwrite"),
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Write an array and a model of it."""
    folder = tmp_path_factory.mktemp("sound")
    HierarchicalKMeans(12, refine=1).fit(X).to_zarr(folder / "m")
    layout = {"shape": X.shape, "chunks": (50, 5), "dtype": "f4"}
    zarr.create_array(folder / "x", **layout)[...] = X
    return folder


def alter(node, chance):
    """Change or remove something in JSON."""
    spots = []

    def walk(part):
        for key in part if isinstance(part, dict) else range(len(part)):
            spots.append((part, key))
            if isinstance(part[key], (dict, list)):
                walk(part[key])

    walk(node)
    part, key = chance.choice(spots)
    if chance.random() < 0.4:
        del part[key]
    else:
        part[key] = chance.choice(JUNK)


def altered(path, beside, chance):
    metadata = json.loads(path.read_text())
    alter(metadata, chance)
    path.write_text(json.dumps(metadata))


def swapped(path, beside, chance):
    other = path.parents[2] / chance.choice(("labels", "sizes", "parents")) / path.name
    other = other / "c" / "0" if path.name != "zarr.json" else other
    if other.exists():
        mine, its = path.read_bytes(), other.read_bytes()
        path.write_bytes(its)
        other.write_bytes(mine)


def huge(path, beside, chance):
    """Let metadata tell of more than there is anywhere."""
    metadata = json.loads(path.read_text())
    if "shape" in metadata:
        size = chance.choice((2**31, 2**40, 2**62))
        metadata["shape"][0] = size
        if chance.random() < 0.5:
            metadata["chunk_grid"]["configuration"]["chunk_shape"][0] = size
    else:
        told = metadata["attributes"]
        told["fitted"]["n_features_in"] = told["input"]["shape"][0] = 2**62
    path.write_text(json.dumps(metadata))


def other_kind(path, beside, chance):
    """Let the values of an array be of another kind, or codecs unpickle them."""
    metadata = json.loads(path.read_text())
    if "shape" in metadata:
        kinds = ("float16", "complex128", "string", "bool", "variable_length_bytes")
        metadata["data_type"] = chance.choice(kinds)
        if chance.random() < 0.3:
            metadata["codecs"][0] = {"name": "numcodecs.pickle", "configuration": {}}
    path.write_text(json.dumps(metadata))


def newer(path, beside, chance):
    metadata = json.loads(path.read_text())
    told = metadata["attributes"]
    told["hkmeans_dask"] = "99.0"
    if "parameters" in told:
        told["parameters"]["of_later"] = 3
    path.write_text(json.dumps(metadata))


def damage(folder, beside, chance):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = chance.choice([folder / "zarr.json", *files])
    changes = (*OF_FILES, swapped)
    if path.name == "zarr.json":
        changes += (altered, altered, altered, altered, huge, other_kind, newer)
    chance.choice(changes)(path, beside, chance)


def others(folder):
    """List what is neither the damaged model nor an output."""
    mine = {folder / name for name in ("w", "o", "r.html")}
    return {path for path in folder.rglob("*") if not mine & {path, *path.parents}}


@pytest.fixture
def little_memory():
    """Let this process not take much more memory than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (taken + LIMIT, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def beside(tmp_path):
    """Give what is elsewhere, and must stay as it is."""
    return Beside(tmp_path)


def tried(stores, capsys, beside):
    """Run all commands on what was damaged."""
    before = others(stores)
    for command in COMMANDS:
        code = main([*command])
        said = capsys.readouterr().err.splitlines()
        assert code in (0, 2), said
        assert len([line for line in said if "error" in line]) == (code == 2), said
    assert others(stores) == before
    assert beside.seen() == beside.before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("seed", SEEDS)
def test_damaged_models_get_one_line(stores, monkeypatch, capsys, beside, seed):
    monkeypatch.chdir(stores)
    shutil.rmtree("w", ignore_errors=True)
    shutil.copytree("m", "w")
    damage(stores / "w", beside, random.Random(seed))
    tried(stores, capsys, beside)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", [pipe, device, sparse, folder])
@pytest.mark.parametrize("name", ["zarr.json", "sizes/zarr.json", "sizes/c/0"])
@pytest.mark.usefixtures("little_memory")
def test_what_is_no_file_of_a_model_is_never_read(
    stores, monkeypatch, capsys, beside, change, name
):
    monkeypatch.chdir(stores)
    shutil.rmtree("w", ignore_errors=True)
    shutil.copytree("m", "w")
    change(stores / "w" / name, beside, random.Random(0))
    tried(stores, capsys, beside)
    assert main(["info", "w"]) == 2


def test_a_model_of_a_newer_version_is_called_so(stores, tmp_path):
    shutil.copytree(stores / "m", tmp_path / "m")
    newer(tmp_path / "m/zarr.json", None, None)
    with pytest.raises(ValueError, match=r"of_later.* Version 99\.0 .* this is"):
        HierarchicalKMeans.from_zarr(tmp_path / "m")


@pytest.mark.parametrize("name", ["fitted", "seed", "input"])
def test_what_is_missing_is_named(stores, tmp_path, name):
    shutil.copytree(stores / "m", tmp_path / "m")
    metadata = json.loads((tmp_path / "m/zarr.json").read_text())
    del metadata["attributes"][name]
    (tmp_path / "m/zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=f"damaged: {name} of the model is missing"):
        HierarchicalKMeans.from_zarr(tmp_path / "m")


def test_arrays_that_do_not_fit_are_named(stores, tmp_path):
    shutil.copytree(stores / "m", tmp_path / "m")
    parents = zarr.open_array(tmp_path / "m/parents", mode="r+")
    parents[3] = 99
    with pytest.raises(ValueError, match="parents has values that are no clusters"):
        HierarchicalKMeans.from_zarr(tmp_path / "m")
    shutil.rmtree(tmp_path / "m/sizes")
    with pytest.raises(FileNotFoundError, match="chunks of sizes are missing"):
        HierarchicalKMeans.from_zarr(tmp_path / "m")
    group = zarr.open_group(tmp_path / "m", mode="r+", use_consolidated=False)
    group.update_attributes({})  # without the metadata of the arrays
    with pytest.raises(ValueError, match="the array sizes is missing"):
        HierarchicalKMeans.from_zarr(tmp_path / "m")


def test_a_flipped_bit_of_labels_is_noticed(stores, tmp_path):
    shutil.copytree(stores / "m", tmp_path / "m")
    chunk = tmp_path / "m/labels/c/0"
    data = bytearray(chunk.read_bytes())
    for at in range(0, len(data), 9):
        flipped = data.copy()
        flipped[at] ^= 4
        chunk.write_bytes(flipped)
        with pytest.raises(OSError, match=r"Chunk c/0 of .*labels cannot be read"):
            HierarchicalKMeans.from_zarr(tmp_path / "m")


def rewrite(path, change):
    array = zarr.open_array(path, mode="r+")
    values = array[...]
    change(values)
    array[...] = values


@pytest.mark.parametrize("label", [-1, -2, 12])
def test_labels_that_are_no_clusters_are_refused(stores, tmp_path, label):
    """-1, of features left out, is one only where there are some."""
    place = tmp_path / "m"
    shutil.copytree(stores / "m", place)
    rewrite(place / "labels", lambda labels: labels.__setitem__(3, label))
    with pytest.raises(ValueError, match=r"m is damaged: the array labels has values"):
        HierarchicalKMeans.from_zarr(place)


def test_sizes_leave_out_only_what_a_metric_does(stores, tmp_path, capsys):
    zeros = X.copy()
    zeros[::50] = 0
    left, place = tmp_path / "left", tmp_path / "m"
    with pytest.warns(UserWarning, match="4 of 200 features of X are zeros"):
        HierarchicalKMeans(12, metric="cosine").fit(zeros).to_zarr(left)
    assert main(["info", str(left)]) == 0
    assert ["features", "left", "out", "4"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
    for source, change in (("m", -1), ("m", 1), ("left", 5)):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(stores / "m" if source == "m" else left, place)
        rewrite(place / "sizes", lambda sizes, by=change: sizes.__iadd__(by))
        with pytest.raises(ValueError, match="damaged: its sizes are not those"):
            HierarchicalKMeans.from_zarr(place)
    rewrite(left / "labels", lambda labels: labels.__setitem__(0, -2))
    with pytest.raises(ValueError, match="the array labels has values"):
        HierarchicalKMeans.from_zarr(left)


@pytest.fixture(scope="module")
def with_axes():
    """Fit a model that rules centers out along an axis."""
    rng = np.random.default_rng(0)
    values = np.outer(rng.normal(size=3000), rng.normal(size=50)).astype("f4")
    model = HierarchicalKMeans(200, nested=False).fit(values)
    assert model.axes_.size
    return model


@pytest.mark.parametrize(
    "wrong",
    [
        lambda axes: 2 * axes,
        lambda axes: 0 * axes,
        lambda axes: axes * np.float32("nan"),
        lambda axes: np.repeat(axes, 2, axis=1),
        lambda axes: np.eye(50, 60, dtype="f4"),
        lambda axes: axes[1:],
        lambda axes: axes.astype("f8"),
        lambda axes: axes.astype("i4"),
    ],
)
def test_axes_that_are_none_are_refused(with_axes, tmp_path, wrong):
    """Labels along them would be others."""
    model = copy.copy(with_axes)
    model.axes_ = wrong(model.axes_)
    model.to_zarr(tmp_path / "m")
    with pytest.raises(ValueError, match=r"m is damaged: .* axes ") as raised:
        HierarchicalKMeans.from_zarr(tmp_path / "m")
    assert "\n" not in str(raised.value)

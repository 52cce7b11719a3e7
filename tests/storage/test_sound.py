"""Models that were cut off or altered: one line, nothing made of them."""

import json
import random
import shutil

import numpy as np
import pytest
import zarr

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli.commands import main

X = np.random.default_rng(0).normal(size=(200, 5)).astype("f4")
JUNK = (None, 0, -1, 1e99, "x", [], {}, [1], True, 2**70, {"a": 1}, [-5], ["a"])
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


def damage(folder, chance):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = chance.choice([folder / "zarr.json", chance.choice(files)])
    data = bytearray(path.read_bytes())
    kind = chance.choice(["alter", "alter", "alter", "flip", "cut"])
    if kind == "alter" and path.name == "zarr.json":
        metadata = json.loads(data)
        alter(metadata, chance)
        data = json.dumps(metadata).encode()
    elif kind == "cut":
        data = data[: chance.randrange(50)]
    elif data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def others(folder):
    """List what is neither the damaged model nor an output."""
    mine = {folder / name for name in ("w", "o", "r.html")}
    return {path for path in folder.rglob("*") if not mine & {path, *path.parents}}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(25))
def test_damaged_models_get_one_line(stores, monkeypatch, capsys, seed):
    monkeypatch.chdir(stores)
    shutil.rmtree("w", ignore_errors=True)
    shutil.copytree("m", "w")
    before = others(stores)
    damage(stores / "w", random.Random(seed))
    for command in COMMANDS:
        code = main([*command])
        said = capsys.readouterr().err.splitlines()
        assert code in (0, 2)
        assert len([line for line in said if "error" in line]) == (code == 2), said
    assert others(stores) == before


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

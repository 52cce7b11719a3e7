"""What is read is what was written, or an error: on threads and on workers."""

import json
import os
import pickle
import re
import shutil
import tomllib
from pathlib import Path

import dask
import dask.array as da
import fsspec
import numpy as np
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from packaging.requirements import Requirement
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec
from zarr.registry import register_codec
from zarr.storage import MemoryStore

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.remote import patience
from hkmeans_dask.storage import listing, opening, outputs
from hkmeans_dask.storage.chunks import lenient
from hkmeans_dask.storage.source import Source
from tests.strategies import Wrapped

X = np.random.default_rng(0).normal(size=(300, 6))
EXPECTED = HierarchicalKMeans(9).fit(X)


def put(path, values=X, **options):
    """Write an array of three chunks, and open it as a user would."""
    options = {"chunks": (100, 6)} | options
    # Not `data=`: several releases of Zarr so lose parts of shards.
    array = zarr.create_array(path, shape=values.shape, dtype=values.dtype, **options)
    array[...] = values
    return zarr.open_array(path, mode="r")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def in_group(path):
    zarr.create_group(path).create_array("a/b", data=X, chunks=(100, 6))


LAYOUTS = {
    "v3": lambda path: put(path),
    "v2": lambda path: put(path, zarr_format=2),
    "v2, nested keys": lambda path: put(
        path, zarr_format=2, chunk_key_encoding={"name": "v2", "separator": "/"}
    ),
    "v2, Fortran order": lambda path: put(path, zarr_format=2, order="F"),
    "shards": lambda path: put(path, chunks=(10, 6), shards=(100, 6)),
    "chunks along samples": lambda path: put(path, chunks=(70, 4)),
    "one chunk": lambda path: put(path, chunks=(300, 6)),
    "not compressed": lambda path: put(path, compressors=None),
    "big-endian": lambda path: put(path, X.astype(">f8")),
    "inside a group": in_group,
}


@pytest.mark.parametrize("write", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("where", ["threads", "processes"])
def test_every_layout_is_read(request, tmp_path, write, where):
    write(tmp_path / "x.zarr")
    component = "a/b" if write is in_group else None
    z = opening.open_array(str(tmp_path / "x.zarr"), component)
    if where == "processes":
        request.getfixturevalue("two_processes")
    model = HierarchicalKMeans(9).fit(z)
    assert_array_equal(model.labels_, EXPECTED.labels_)
    assert_array_equal(model.cluster_centers_, EXPECTED.cluster_centers_)
    assert_array_equal(model.predict(z), EXPECTED.labels_)


class Counted(GzipCodec):
    """A codec that tells how often it was made; earlier ones of Zarr then warn."""

    made = 0

    def __init__(self, level=5):
        super().__init__(level=level)
        Counted.made += 1

    @classmethod
    def from_dict(cls, data):
        """Take its metadata."""
        return cls(**data["configuration"])

    def to_dict(self):
        """Give its metadata."""
        return super().to_dict() | {"name": "counted"}


register_codec("counted", Counted)


def n_made():
    return Counted.made


@pytest.mark.parametrize("relative", [False, True])
def test_codecs_are_made_by_who_opens_x_alone(
    two_processes, tmp_path, monkeypatch, relative
):
    put(tmp_path / "x.zarr", compressors=Counted())
    monkeypatch.chdir(tmp_path)
    z = zarr.open_array("x.zarr" if relative else tmp_path / "x.zarr", mode="r")
    before = n_made(), two_processes.run(n_made)
    model = HierarchicalKMeans(9).fit(z)
    assert_array_equal(model.labels_, EXPECTED.labels_)
    assert_array_equal(model.transform(z).compute(), EXPECTED.transform(X))
    assert (n_made(), two_processes.run(n_made)) == before


def test_a_relative_path_works_on_workers_in_another_folder(
    two_processes, tmp_path, monkeypatch
):
    """Zarr alone would read zeros there."""
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path) not in two_processes.run(os.getcwd).values()
    put("x.zarr")
    plain = da.from_array(zarr.open_array("x.zarr", mode="r"), chunks=(100, 6))
    assert not plain.compute().any(), "zarr has learned this: drop Source"
    model = HierarchicalKMeans(9).fit(zarr.open_array("x.zarr", mode="r"))
    assert_array_equal(model.cluster_centers_, EXPECTED.cluster_centers_)
    assert_array_equal(model.predict(opening.open_array("x.zarr")), EXPECTED.labels_)


def remove_all(path):
    shutil.rmtree(path)


def remove_metadata(path):
    for name in ("zarr.json", ".zarray"):
        (path / name).unlink(missing_ok=True)


def remove_chunks(path):
    for chunk in [*path.glob("c/*/*"), *path.glob("?.?")]:
        chunk.unlink()


def put_another_there(path):
    zarr_format = 2 if (path / ".zarray").exists() else 3
    shutil.rmtree(path)
    put(path, X[:200], zarr_format=zarr_format)


DAMAGES = [remove_all, remove_metadata, remove_chunks, put_another_there]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("where", ["threads", "processes"])
def test_what_cannot_be_seen_is_an_error_not_zeros(
    request, tmp_path, damage, zarr_format, where
):
    """The store goes between the call and the read, as if a worker had no mount."""
    if where == "processes":
        request.getfixturevalue("two_processes")
    z = put(tmp_path / "x.zarr", zarr_format=zarr_format)
    lazy = EXPECTED.transform(z), EXPECTED.predict(z)
    damage(tmp_path / "x.zarr")
    for result in lazy:
        with pytest.raises(FileNotFoundError, match=r"x\.zarr .* share"):
            result.compute()


@pytest.mark.parametrize("damage", [remove_all, remove_metadata])
def test_fit_of_an_array_that_is_gone(tmp_path, damage):
    z = put(tmp_path / "x.zarr")
    damage(tmp_path / "x.zarr")
    with pytest.raises(FileNotFoundError, match=r"x\.zarr"):
        HierarchicalKMeans(9).fit(z)


def test_workers_are_told_apart_when_their_process_numbers_are_equal(tmp_path):
    """In containers they often are: all that travels is looked at again."""
    read = Source(put(tmp_path / "x.zarr"))
    assert_array_equal(read[:, :], X)
    travelled = pickle.dumps(read)
    shutil.rmtree(tmp_path / "x.zarr")
    with pytest.raises(FileNotFoundError, match="cannot be seen"):
        pickle.loads(travelled)[:, :]


# Missing chunks


def remove_middle(path):
    (chunk,) = [*path.rglob("c/1/0"), *path.rglob("1.0")]
    chunk.unlink()


MISSING = {
    "v3": lambda path: put(path),
    "v2": lambda path: put(path, zarr_format=2),
    "shards": lambda path: put(path, chunks=(10, 6), shards=(100, 6)),
    "inside a group": in_group,
}


@pytest.mark.parametrize("kind", MISSING)
@pytest.mark.parametrize("where", ["threads", "processes"])
def test_missing_chunks_are_counted_once(request, tmp_path, kind, where):
    if where == "processes":
        request.getfixturevalue("two_processes")
    MISSING[kind](tmp_path / "x.zarr")
    remove_middle(tmp_path / "x.zarr")
    component = "a/b" if kind == "inside a group" else None
    z = opening.open_array(str(tmp_path / "x.zarr"), component)
    zeros = X.copy()
    zeros[100:200] = 0
    for use in (
        lambda: HierarchicalKMeans(9).fit(z).cluster_centers_,
        lambda: EXPECTED.transform(z).compute(),
        lambda: EXPECTED.predict(z).compute(),
    ):
        with pytest.warns(UserWarning, match="missing") as caught:
            use()
        (warning,) = caught
        unit = "shards" if kind == "shards" else "chunks"
        assert str(warning.message).startswith(
            f"1 of 3 {unit} of {z.store_path} are missing and are read as its fill "
            "value 0.0."
        )
    with pytest.warns(UserWarning, match="missing"):
        assert_allclose(EXPECTED.transform(z), EXPECTED.transform(zeros))


STRICT = {"read_missing_chunks": False}


@pytest.mark.parametrize("where", ["threads", "processes"])
def test_where_missing_chunks_are_errors_they_stay_errors(request, tmp_path, where):
    if where == "processes":
        request.getfixturevalue("two_processes")
    put(tmp_path / "x.zarr")
    z = zarr.open_array(tmp_path / "x.zarr", mode="r", config=STRICT)
    if lenient(z):
        pytest.skip("this Zarr has no read_missing_chunks: it came with 3.2")
    lazy = EXPECTED.transform(z)
    assert_allclose(lazy, EXPECTED.transform(X))
    remove_middle(tmp_path / "x.zarr")
    with pytest.raises(FileNotFoundError, match=r"1 of 3 chunks .*missing_chunks is"):
        HierarchicalKMeans(9).fit(z)
    with pytest.raises(OSError, match=r"Chunk c/1/0 of .*ChunkNotFoundError"):
        lazy.compute()


RECTILINEAR = {"array.rectilinear_chunks": True}


def test_chunks_of_several_sizes_are_refused(tmp_path):
    with zarr.config.set(RECTILINEAR):
        try:
            z = zarr.create_array(
                tmp_path / "x", shape=(300, 6), chunks=[[100, 200], [6]], dtype="f4"
            )
        except (TypeError, ValueError):
            pytest.skip("this Zarr has no rectilinear chunk grids: they came with 3.2")
        for use in (
            lambda: HierarchicalKMeans(9).fit(z),
            lambda: EXPECTED.transform(z),
            lambda: HierarchicalKMeans(9).plan(z),
        ):
            with pytest.raises(ValueError, match="several sizes along one axis"):
                use()
    with pytest.raises(ValueError, match="several sizes along one axis"):
        opening.open_array(str(tmp_path / "x"))


def purge_middle(path):
    remove_middle(path)


def purge_all(path):
    shutil.rmtree(path / "c")


@pytest.mark.parametrize("purge", [purge_middle, purge_all])
@pytest.mark.parametrize("layout", ["one chunk a block", "left to Zarr"])
def test_chunks_that_are_purged_after_opening_are_errors_not_zeros(
    tmp_path, purge, layout
):
    options = {} if layout == "one chunk a block" else {"compressors": GzipCodec()}
    z = put(tmp_path / "x.zarr", **options)
    lazy = EXPECTED.transform(z)
    assert_allclose(lazy, EXPECTED.transform(X))
    purge(tmp_path / "x.zarr")
    with pytest.raises(FileNotFoundError, match=r"Chunk c/\d/0 .* was there when the"):
        lazy.compute()


def test_a_worker_with_an_incomplete_copy_says_so(two_processes, tmp_path, monkeypatch):
    """Its copy is a folder that only has the chunk by which stores are compared."""
    z = put(tmp_path / "x.zarr", chunks=(10, 6))
    lazy = EXPECTED.transform(z)
    for number in range(3, 27):
        (tmp_path / f"x.zarr/c/{number}/0").unlink()
    with pytest.raises(FileNotFoundError, match=r"Chunk c/\d+/0 .* process \d+ on "):
        lazy.compute()


def test_chunks_of_fill_values_that_are_there_are_read(tmp_path):
    values = np.zeros((300, 6))
    values[::7] = 1
    layout = {"shape": values.shape, "chunks": (5, 6), "dtype": "f8"}
    empty = {"write_empty_chunks": True}
    z = zarr.create_array(tmp_path / "x.zarr", config=empty, **layout)
    z[...] = values
    assert_array_equal(Source(z)[3:280, 1:5], values[3:280, 1:5])


def test_attributes_may_change_after_opening(tmp_path):
    z = put(tmp_path / "x.zarr")
    lazy = EXPECTED.transform(z)
    zarr.open_array(tmp_path / "x.zarr", mode="r+").attrs["units"] = "mm"
    assert_allclose(lazy, EXPECTED.transform(X))


def test_bytes_behind_a_chunk_of_blosc_are_left_alone(tmp_path):
    z = put(tmp_path / "x.zarr", compressors=BloscCodec())
    with (tmp_path / "x.zarr/c/1/0").open("ab") as file:
        file.write(b"more")
    assert_array_equal(z[...], X)
    assert_array_equal(Source(z)[:, :], X)


def test_the_warning_points_at_the_call(tmp_path):
    z = put(tmp_path / "x.zarr")
    remove_middle(tmp_path / "x.zarr")
    with pytest.warns(UserWarning, match="missing") as caught:
        HierarchicalKMeans(9).fit(z)
    assert caught[0].filename == __file__


def test_chunks_of_fill_values_need_not_be_there(two_processes, tmp_path):
    zarr.create_array(tmp_path / "x.zarr", shape=(300, 6), chunks=(100, 6), dtype="f8")
    assert names_in(tmp_path / "x.zarr") == ["zarr.json"]
    z = zarr.open_array(tmp_path / "x.zarr", mode="r")
    with pytest.warns(UserWarning, match="3 of 3 chunks"):
        assert_array_equal(EXPECTED.transform(z), np.zeros((9, 6)))


def test_links_to_nothing_are_missing_chunks(tmp_path):
    """As git-annex and DataLad leave them, until their content is fetched."""
    z = put(tmp_path / "x.zarr")
    remove_middle(tmp_path / "x.zarr")
    (tmp_path / "x.zarr/c/1/0").symlink_to(tmp_path / "not fetched")
    with pytest.warns(UserWarning, match="1 of 3 chunks"):
        HierarchicalKMeans(9).fit(z)


def test_missing_chunks_of_remote_stores_are_counted():
    url = "memory://tests/missing.zarr"
    zarr.create_array(url, data=X, chunks=(100, 6))
    files = fsspec.filesystem("memory")
    files.rm("/tests/missing.zarr/c/2/0")
    with pytest.warns(UserWarning, match=r"1 of 3 chunks of .*missing\.zarr.* are"):
        HierarchicalKMeans(9).fit(opening.open_array(url))


def test_what_we_write_is_all_there(tmp_path):
    """Chunks of zeros too: no warning."""
    place = str(tmp_path / "x")
    zeros = da.zeros((300, 6), chunks=(100, 6))
    outputs.fill(place, zeros, dask.compute)
    assert_array_equal(EXPECTED.transform(opening.open_array(place)), np.zeros((9, 6)))


def test_a_store_that_cannot_be_listed_gives_one_warning():
    """As a plain web server."""

    class Unlisted(Wrapped):
        async def list_prefix(self, prefix):
            for key in ():
                yield key

    memory = MemoryStore()
    zarr.create_array(memory, data=X, chunks=(100, 6))
    z = zarr.open_array(Unlisted(memory), mode="r")
    with pytest.warns(UserWarning, match="cannot be listed") as warned:
        assert_array_equal(EXPECTED.predict(z), EXPECTED.labels_)
    assert len(warned) == 1


@pytest.mark.parametrize("url", ["{}/x.zarr", "memory://tests/prints.zarr"])
def test_a_fingerprint_changes_with_a_chunk(tmp_path, url):
    url = url.format(tmp_path)
    zarr.create_array(url, data=X, chunks=(100, 6), overwrite=True)
    prints = [listing.fingerprint(opening.open_array(url)) for _ in range(2)]
    with fsspec.open(f"{url}/c/1/0", "wb") as chunk:
        chunk.write(b"another size")
    prints.append(listing.fingerprint(opening.open_array(url)))
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("lazily", [lambda array: array, da.from_zarr])
def test_a_fit_lists_a_store_once(tmp_path, monkeypatch, lazily):
    """As it was before the first read; a next fit looks again."""
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(100, 6))
    monkeypatch.chdir(tmp_path)
    walk, listed = os.walk, []

    def walked(folder, **options):
        if Path(folder).name == "x.zarr":
            listed.append(folder)
        return walk(folder, **options)

    monkeypatch.setattr(os, "walk", walked)
    for number in (1, 2):
        array = lazily(zarr.open_array("x.zarr", mode="r"))
        HierarchicalKMeans(3, work_dir=tmp_path / "work").fit(array)
        assert len(listed) == number


# Damaged chunks


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path):
    path.write_bytes(b"\x7f" * path.stat().st_size)


def tell_of_more(path):
    """Let Blosc's header tell of more bytes than there are: Blosc itself reads on."""
    stored = bytearray(path.read_bytes())
    stored[12:16] = (len(stored) + 1).to_bytes(4, "little")
    path.write_bytes(stored)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


V2 = {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}}
DAMAGED = {
    "not compressed, truncated": (truncate, {"compressors": None}),
    "blosc, truncated": (truncate, {"compressors": BloscCodec()}),
    "blosc, of more": (tell_of_more, {"compressors": BloscCodec()}),
    "zstd, overwritten": (overwrite, {}),
    "gzip, truncated": (truncate, {"compressors": GzipCodec()}),
    "gzip, overwritten": (overwrite, {"compressors": GzipCodec()}),
    "checksum": (flip_a_bit, {"compressors": Crc32cCodec()}),
    "shard": (truncate, {"chunks": (10, 6), "shards": (100, 6)}),
    "v2": (overwrite, V2),
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("where", ["threads", "processes"])
def test_damaged_chunks_are_named(request, tmp_path, kind, where):
    if where == "processes":
        request.getfixturevalue("two_processes")
    damage, options = DAMAGED[kind]
    z = put(tmp_path / "x.zarr", **options)
    key = "1/0" if options is V2 else "c/1/0"
    damage(tmp_path / "x.zarr" / key)
    message = f"Chunk {key} of {z.store_path} cannot be read "
    for use in (
        lambda: HierarchicalKMeans(9).fit(z),
        EXPECTED.transform(z).compute,
        EXPECTED.predict(z).compute,
    ):
        with pytest.raises(OSError, match=f"^{re.escape(message)}.*Write it again"):
            use()


def test_all_damaged_chunks_of_a_block_are_named_up_to_a_few(tmp_path):
    z = put(tmp_path / "x.zarr", chunks=(30, 3))
    read = Source(z)
    for key in ("1/0", "3/1", "8/0", "9/1"):
        overwrite(tmp_path / "x.zarr/c" / key)
    assert_array_equal(read[30:60, 3:], X[30:60, 3:])
    assert_array_equal(read[5, -3:], X[5, -3:])
    assert read[300:, :].shape == (0, 6)
    for index, keys in [
        ((slice(0, 100), slice(0, 6)), "c/1/0, c/3/1"),
        ((slice(0, 100), 1), "c/1/0"),
        ((slice(31, 119, 9), slice(0, 6)), "c/1/0, c/3/1"),
        ((slice(0, 300), slice(0, 6)), "c/1/0, c/3/1, c/8/0"),
    ]:
        with pytest.raises(OSError, match=f"^Chunk {keys} of "):
            read[index]


@pytest.mark.parametrize("name", ["labels", "cluster_centers"])
def test_damaged_chunks_of_models_are_named(tmp_path, name):
    EXPECTED.to_zarr(tmp_path / "model")
    (chunk,) = [p for p in (tmp_path / "model" / name / "c").rglob("*") if p.is_file()]
    overwrite(chunk)
    with pytest.raises(OSError, match=rf"^Chunk c/0.* of .*model/{name} cannot be"):
        HierarchicalKMeans.from_zarr(tmp_path / "model")


def in_trouble(*errors):
    """Give an array, a chunk of which cannot be read so often, and what is left."""
    left = list(errors)

    class Trouble(Wrapped):
        async def get(self, key, prototype, byte_range=None):
            if key.endswith("c/1/0") and left:
                raise left.pop()
            return await super().get(key, prototype, byte_range)

    memory = MemoryStore()
    zarr.create_array(memory, data=X, chunks=(100, 6))
    return zarr.open_array(Trouble(memory), mode="r"), left


def test_a_passing_read_error_is_survived_in_threads():
    z, left = in_trouble(*[OSError("the server is busy")] * 2)
    model = HierarchicalKMeans(9).fit(z)
    assert not left
    assert_array_equal(model.labels_, EXPECTED.labels_)


def test_a_lasting_read_error_names_the_chunk():
    z, left = in_trouble(*[OSError("the server is gone")] * 99)
    with pytest.raises(OSError, match=r"Chunk c/1/0 .*\(OSError: the server is gone\)"):
        Source(z)[:, :]
    assert len(left) == 99 - len(patience.WAITS) - 2


def test_errors_that_are_not_of_a_chunk_stay_as_they_are():
    z, _ = in_trouble(MemoryError("too large"))
    with pytest.raises(MemoryError, match="too large"):
        Source(z)[:, :]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_fill_value_of_nan_is_no_difference(tmp_path, zarr_format):
    values = np.arange(80, dtype="f4").reshape(20, 4)
    z = zarr.create_array(
        tmp_path / "x.zarr",
        shape=(20, 4),
        chunks=(5, 4),
        dtype="f4",
        fill_value=np.nan,
        zarr_format=zarr_format,
    )
    z[:] = values
    model = HierarchicalKMeans(3).fit(z)
    assert model.n_clusters_ == 3


# Nothing is unpickled


class Attack:
    """When unpickled, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        """Say what to call."""
        return Path.touch, (self.path,)


PICKLE = {"id": "pickle", "protocol": 5}
PICKLED = {
    "objects": {"dtype": "|O", "filters": [PICKLE]},
    "as a compressor": {"dtype": "|O", "compressor": PICKLE},
    "numbers": {"dtype": "<f8", "filters": [PICKLE]},
    "behind texts": {"dtype": "|O", "filters": [{"id": "vlen-utf8"}, PICKLE]},
    "behind bytes": {"dtype": "|O", "filters": [{"id": "vlen-bytes"}, PICKLE]},
}


@pytest.mark.filterwarnings("ignore:.*specification")
@pytest.mark.parametrize("metadata", PICKLED.values(), ids=PICKLED)
def test_pickles_are_refused(tmp_path, metadata):
    path, trap = tmp_path / "x.zarr", tmp_path / "sprung"
    path.mkdir()
    basic = {"zarr_format": 2, "shape": [4, 3], "chunks": [4, 3], "fill_value": 0}
    rest = {"order": "C", "filters": None, "compressor": None}
    (path / ".zarray").write_text(json.dumps(basic | rest | metadata))
    (path / "0.0").write_bytes(pickle.dumps(Attack(trap)))
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        HierarchicalKMeans(2).fit(opening.open_array(str(path)))
    assert not trap.exists()
    pickle.loads((path / "0.0").read_bytes())
    assert trap.exists(), "the attack would have worked"


def test_numcodecs_that_unpickle_unasked_are_ruled_out():
    """0.16.6 is the first that refuses."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    lines = tomllib.loads(project.read_text())["project"]["dependencies"]
    found = {Requirement(line).name: Requirement(line).specifier for line in lines}
    assert "0.16.6" in found["numcodecs"]
    assert "0.16.5" not in found["numcodecs"]

"""The command line: what it writes, what it refuses, and where it computes."""

import gc
import inspect
import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import dask
import dask.array as da
import numpy as np
import psutil
import pytest
import zarr
from distributed import Client, KilledWorker, default_client

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli import commands
from hkmeans_dask.cli.cluster import Cluster
from hkmeans_dask.cli.commands import main
from hkmeans_dask.storage import outputs

BIN = Path(sys.executable).parent
N_FEATURES, N_SAMPLES, K = 600, 10, 20


def values(n_features=N_FEATURES, n_samples=N_SAMPLES, seed=0):
    return np.random.default_rng(seed).normal(size=(n_features, n_samples)).astype("f4")


def save(path, array, chunks=None, **options):
    options |= {"chunks": chunks or array.shape, "dtype": array.dtype}
    # Not `data=`: several releases of Zarr so lose parts of shards.
    zarr.create_array(path, shape=array.shape, **options)[...] = array


def load(path):
    return zarr.open_array(path, mode="r")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Make inputs of many kinds, and a model of ``x``."""
    folder = tmp_path_factory.mktemp("inputs")
    save(folder / "x", values(), (100, N_SAMPLES))
    save(folder / "v2", values(), (100, N_SAMPLES), zarr_format=2)
    save(folder / "sharded", values(), (20, N_SAMPLES), shards=(100, N_SAMPLES))
    group = zarr.create_group(folder / "group")
    group.create_array("a/b", data=values(), chunks=(100, N_SAMPLES))
    save(folder / "transposed", values().T, (N_SAMPLES, 100))
    save(folder / "one-axis", values()[:, 0])
    save(folder / "complex", values() * 1j)
    save(folder / "one-feature", values(1))
    save(folder / "more-features", values(N_FEATURES + 1))
    save(folder / "more-samples", values(n_samples=N_SAMPLES + 1))
    save(folder / "centers", values(K))
    save(folder / "few-centers", values(K - 1))
    bad = values()
    bad[-1, 3] = np.nan
    save(folder / "nan", bad, (100, N_SAMPLES))
    (folder / "text").write_text("hello")
    (folder / "unfinished").mkdir()
    outputs.create_array(str(folder / "unfinished"), (5, 5), (5, 5), np.dtype("f4"))
    model = HierarchicalKMeans(K).fit(load(folder / "x"))
    model.to_zarr(folder / "model")
    save(folder / "reduced", model.transform(values()))
    return folder


@pytest.fixture
def here(inputs, tmp_path, monkeypatch):
    """Work in an empty folder, with the inputs in ``in``."""
    (tmp_path / "in").symlink_to(inputs)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command, code=0):
    assert main(command.split()) == code, command


def entries(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "in")


def one_line(text, kind="error"):
    """Give what follows ``hkmeans-dask: error:`` in text of a single line."""
    (line,) = text.strip().splitlines()
    prefix = f"hkmeans-dask: {kind}: "
    assert line.startswith(prefix)
    return line.removeprefix(prefix)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from hkmeans_dask.cli.commands import main;"
        "main(['fit', '--help']);"
        "print({'dask', 'numpy', 'sklearn', 'zarr'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert b"--max-no-improvement" in ran.stdout
    assert ran.stdout.endswith(b"set()\n")


@pytest.mark.parametrize("options", ["", "--workers 1"])
def test_a_command_says_at_once_that_it_imports(here, options):
    command = (sys.executable, "-X", "importtime", BIN / "hkmeans-dask")
    given = f"fit in/x m -k {K} {options}".split()
    ran = subprocess.run([*command, *given], capture_output=True, text=True, check=True)
    lines = [line.rpartition("| ")[2].strip() for line in ran.stderr.splitlines()]
    said = [line for line in lines if line.startswith("hkmeans: ")]
    assert said[0] == "hkmeans: importing ..."
    assert options == "" or said[1] == "hkmeans: starting 1 workers ..."
    for heavy in ("numpy", "dask", "zarr", "sklearn"):
        assert lines.index(heavy) > lines.index(said[0])


def test_quiet_commands_say_nothing(here):
    assert run_process(f"fit in/x m -k {K} --quiet").stderr == ""


def test_without_a_command_comes_the_help(capsys):
    run("")
    assert "inverse-transform" in capsys.readouterr().out


def test_fit_takes_every_parameter_with_its_default():
    parameters = inspect.signature(HierarchicalKMeans).parameters
    given = commands.fit.make_context("fit", ["x", "m", "-k", "3"]).params
    for name, parameter in parameters.items():
        expected = {"n_clusters": 3, "verbose": 1}.get(name, parameter.default)
        assert given[name] == expected, name


def test_fit_saves_what_the_estimator_finds(here, capsys):
    run(f"fit in/x m -k {K} --scaling --batch-size 300 --n-init 2 --random-state 5")
    expected = HierarchicalKMeans(
        K, scaling=True, batch_size=300, n_init=2, random_state=5
    ).fit(load("in/x"))
    model = HierarchicalKMeans.from_zarr("m")
    np.testing.assert_array_equal(model.labels_, expected.labels_)
    assert model.get_params() == expected.get_params()
    shown = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.split("\n")[:2]
    )
    assert shown == {"model": "m", "clusters": str(K)}


def test_none_is_none(here):
    run(
        f"fit in/x m -k {K} --max-no-improvement none --random-state None "
        "--max-features-per-cluster none"
    )
    model = HierarchicalKMeans.from_zarr("m")
    assert model.max_no_improvement is None
    assert model.random_state is None
    assert model.max_features_per_cluster is None


def test_init_is_a_path(here):
    run(f"fit in/x m -k {K} --init in/centers")
    expected = HierarchicalKMeans(K, init=values(K)).fit(load("in/x"))
    model = HierarchicalKMeans.from_zarr("m")
    np.testing.assert_array_equal(model.labels_, expected.labels_)
    np.testing.assert_array_equal(model.init, values(K))


@pytest.mark.parametrize(
    "given",
    ["in/x", "in/v2", "in/sharded", "in/group --component a/b", "file://{here}/in/x"],
)
def test_inputs_of_all_kinds(given, here):
    source, *component = given.format(here=here).split(maxsplit=1)
    options = " ".join(component)
    run(f"fit {source} m -k {K} {options}")
    run(f"transform {source} m t {options}")
    run(f"predict {source} m file://{here}/p {options}")
    expected = HierarchicalKMeans(K).fit(load("in/x"))
    np.testing.assert_array_equal(load("p")[:], expected.labels_)
    np.testing.assert_array_equal(load("t")[:], expected.transform(values()))


@pytest.mark.parametrize(("axis", "source"), [(0, "in/x"), (1, "in/transposed")])
def test_the_way_there_and_back(axis, source, here, capsys):
    run(f"fit {source} m -k {K} --feature-axis {axis}")
    run(f"transform {source} m t")
    run("inverse-transform t m i")
    capsys.readouterr()
    run(f"predict {source} m p")
    assert f"p: ({N_FEATURES},) int32" in capsys.readouterr().out
    labels = load("p")[:]
    np.testing.assert_array_equal(labels, HierarchicalKMeans.from_zarr("m").labels_)
    reduced, inverse = (load(name)[:].T if axis else load(name)[:] for name in "ti")
    means = [values()[labels == label].mean(axis=0) for label in range(K)]
    np.testing.assert_allclose(reduced, means, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(inverse, reduced[labels])
    for name in "tip":
        array = load(name)
        assert array.metadata.zarr_format == 3
        assert array.attrs["status"] == "complete"
        assert array.nchunks_initialized == array.nchunks


def test_relative_paths_hold_in_another_folder(here, monkeypatch):
    (here / "work").mkdir()
    monkeypatch.chdir(here / "work")
    run(f"fit ../in/x ../m -k {K}")
    run("predict ../in/x ../m p")
    assert entries(here) == ["m", "work"]
    assert entries(here / "work") == ["p"]


def test_info(here, capsys):
    run("info in/model")
    shown = dict(
        re.split(r" {2,}", row) for row in capsys.readouterr().out.splitlines()
    )
    assert shown["input"] == f"{N_FEATURES} x {N_SAMPLES} float32"
    assert shown["clusters"] == str(K)
    assert shown["init"] == "k-means++"
    assert shown["scaling"] == "false"
    assert re.fullmatch(r"\d+ to \d+, median [\d.]+", shown["features per cluster"])
    record = zarr.open_group("in/model", mode="r").attrs
    assert shown["seed"] == str(record["seed"])
    assert shown["hkmeans_dask version"] == record["hkmeans_dask"]


def test_outputs_are_replaced_when_asked(here, capsys):
    commands = (
        f"fit in/x o -k {K}",
        "transform in/x in/model o",
        "inverse-transform in/reduced in/model o",
        "predict in/x in/model o",
    )
    for first in commands:
        run(f"{first} --overwrite")
        before = (here / "o/zarr.json").read_bytes()
        capsys.readouterr()
        run(first, code=2)
        assert "o is already there" in one_line(capsys.readouterr().err)
        assert (here / "o/zarr.json").read_bytes() == before
    assert load("o").shape == (N_FEATURES,)
    assert entries(here) == ["o"]


BAD = {
    "frobnicate": "No such command 'frobnicate'",
    "fit in/x o": "Missing option '-k'",
    "fit in/x o -k many": "'many' is not a valid integer",
    "fit in/x o -k -2": "greater than 0. -2 was provided.",
    "fit in/x o -k 5 --random-state x": "'x' is not an integer or none.",
    "fit in/x o -k 5 --init middle": "'middle' was given.",
    "fit in/x o -k 20 --init in/few-centers": r"init has shape \(19, 10\)",
    "fit in/x o -k 5 --init in/text": "init should be .* 'in/text' was given.",
    "fit in/x o -k 5 --feature-axis 2": "0 or 1 or the name of .* 2 was given.",
    "fit in/x o -k 5 --feature-axis voxel": "is named 'voxel'; their names: none",
    "fit in/x o -k 5 --allocation all": "'all' is not one of 'size', 'inertia'",
    "fit in/x o -k 5 --balance 2": "2.0 was given.",
    "fit in/nothing o -k 5": "in/nothing is not there",
    "fit in/text o -k 5": "in/text is not there, or is no Zarr",
    "fit in/group/a o -k 5": "in/group/a is a Zarr group.*--component: b.",
    "fit in/group o -k 5 --component c": r"in/group \(component c\) is not there",
    "fit in/unfinished o -k 5": "in/unfinished is not complete",
    "fit in/one-axis o -k 5": "Expected 2D array, got 1D",
    "fit in/complex o -k 5": "Complex data not supported",
    "fit in/one-feature o -k 1": "1 feature",
    "fit in/nan o -k 5": f"NaN: the first is in feature {N_FEATURES - 1}",
    "fit in/x in/text/o -k 5": "text is not a folder",
    "fit in/x in/x -k 5 --overwrite": "in/x would replace in/x",
    "transform in/x in/model in/model --overwrite": "in/model would replace in/model",
    "fit in/x o -k 5 --workers 0": "0 is not in the range",
    "fit in/x o -k 5 --memory-limit 2GB": "--memory-limit is that of --workers",
    "fit in/x o -k 5 --workers 2 --memory-limit big": "'big' was given",
    "fit in/x o -k 5 --workers 2 --scheduler tcp://a:1": "Give one of them",
    "fit in/x o -k 5 --scheduler-file in/nothing": "'in/nothing' does not exist",
    "fit in/x o -k 5 --scheduler-file in/text": "not a file that a dask scheduler",
    "fit in/x o -k 5 --scheduler a:1 --scheduler-file in/text": "not both",
    "fit in/x o -k 5 --scheduler nowhere": "nowhere",
    "fit in/x memory://o -k 5 --workers 2": "memory://o is in the memory of this",
    "transform memory://x in/model o --workers 2": "memory://x is in the memory",
    "predict in/x memory://m o --scheduler tcp://a:1": "memory://m is in the memory",
    "fit unheard://x o -k 5": "unheard",
    "transform in/more-features in/model o": f"X has {N_FEATURES + 1} features",
    "transform in/nan in/model o": f"NaN: the first is in feature {N_FEATURES - 1}",
    "transform in/x in/nothing o": "in/nothing is not there",
    "transform in/x in/x o": "in/x is a Zarr array, not a model",
    "transform in/x in/group o": "in/group is a Zarr group, but not a model",
    "inverse-transform in/centers in/reduced o": "in/reduced is a Zarr array, not",
    "inverse-transform in/few-centers in/model o": f"X_red has {K - 1} clusters",
    "predict in/more-samples in/model o": f"X has {N_SAMPLES + 1} samples",
    "predict in/nan in/model o": "NaN",
    "info in/x": "in/x is a Zarr array, not a model",
    "demo -k 0": "n_clusters should be an integer greater than 0. 0 was provided.",
}


@pytest.mark.parametrize("command", BAD)
def test_bad_input_gets_one_line(command, here, capsys):
    run(command, code=2)
    captured = capsys.readouterr()
    assert re.search(BAD[command], one_line(captured.err))
    assert captured.out == ""
    assert entries(here) == []


@pytest.mark.parametrize("options", ["", "--workers 1"])
def test_damaged_input_gets_one_line(options, here, capsys):
    save("damaged", values(), (100, N_SAMPLES))
    os.truncate("damaged/c/3/0", 20)
    for command in (
        f"fit damaged o -k {K}",
        f"fit in/x o -k {K} --init damaged",
        "transform damaged in/model o",
    ):
        run(f"{command} {options}", code=2)
        error = one_line(capsys.readouterr().err)
        assert error.startswith("Chunk c/3/0 of file://")
    assert entries(here) == ["damaged"]


def run_process(command):
    return subprocess.run(
        [BIN / "hkmeans-dask", *command.split()],
        capture_output=True,
        text=True,
        check=False,
    )


def test_missing_input_gets_a_warning(here):
    save("gaps", values(), (100, N_SAMPLES))
    for chunk in ("gaps/c/2/0", "gaps/c/4/0"):
        os.remove(chunk)
    for command in (
        f"fit gaps m -k {K}",
        "transform gaps in/model t --workers 1",
        "predict gaps in/model p",
    ):
        ran = run_process(f"{command} --quiet")
        assert ran.returncode == 0
        warning = one_line(ran.stderr, "warning")
        assert warning.startswith("2 of 6 chunks of file://")


def test_a_process_that_fails(here):
    ran = run_process("transform in/nan in/model o")
    assert ran.returncode == 2
    assert ran.stdout == ""
    first, _, error = ran.stderr.partition("\n")
    assert first == "hkmeans: importing ..."
    assert "NaN" in one_line(error)
    assert entries(here) == []


def test_a_process_that_ends_well(here):
    ran = run_process(f"fit in/x m -k {K}")
    assert ran.returncode == 0
    assert re.fullmatch(
        r"hkmeans: importing ...\n(hkmeans: \w+ +[\d.]+ s\n)+", ran.stderr
    )
    assert ran.stdout.startswith("model ")
    assert entries(here) == ["m"]


def test_an_error_leaves_what_was_there(here, capsys):
    run("transform in/x in/model o")
    before = load("o")[:]
    run("transform in/nan in/model o --overwrite", code=2)
    np.testing.assert_array_equal(load("o")[:], before)
    assert entries(here) == ["o"]


def test_ctrl_c_leaves_nothing(here, capsys, monkeypatch):
    def interrupted(place, array, *how):
        outputs.create_array(place, array.shape, array.shape, array.dtype)
        raise KeyboardInterrupt

    monkeypatch.setattr(outputs, "fill", interrupted)
    run("transform in/x in/model o", code=130)
    one_line(capsys.readouterr().err, "interrupted")
    assert entries(here) == []


@pytest.mark.filterwarnings("default")
def test_warnings_get_one_line(here, capsys):
    run(f"fit in/x o -k {N_FEATURES + 1} --batch-size 100")
    warning = one_line(capsys.readouterr().err, "warning")
    assert f"Taking n_clusters = {N_FEATURES} instead." in warning


def test_workers_are_processes_that_nobody_else_reaches():
    with Cluster(1, "1GB", None).running():
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        sockets = [each for one in family for each in one.net_connections()]
        (worker,) = dask.compute(dask.delayed(os.getpid)())
    listening = {each.laddr.ip for each in sockets if each.status == "LISTEN"}
    assert listening == {"127.0.0.1"}
    assert worker != os.getpid()
    assert worker in [process.pid for process in family]


def test_nobody_without_the_certificate_may_talk_to_the_workers():
    with Cluster(1, None, None).running():
        client = default_client()
        address = client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        for other in (address, address.replace("tls:", "tcp:")):
            with pytest.raises((TypeError, ValueError, OSError)):
                Client(other, timeout=2, set_as_default=False)
            gc.collect()  # later it might close while distributed holds its lock
        own = client.submit(os.getuid).result()
        assert own == os.getuid()


def test_workers_give_the_same_as_threads(here):
    run(f"fit in/x m -k {K} --workers 2 --memory-limit 1GB")
    for name, array in zarr.open_group("in/model", mode="r").arrays():
        np.testing.assert_array_equal(load(f"m/{name}")[...], array[...])


def test_dead_workers_get_a_remedy():
    def die():
        with Cluster(1, None, None).running():
            worker = SimpleNamespace(address="tcp://127.0.0.1:1")
            raise KilledWorker("hkmeans-label", worker, 3)

    with pytest.raises(ValueError, match=r"hkmeans-label.*--memory-limit"):
        die()


@contextmanager
def ended(*command):
    """Run a command in the background, and end it."""
    process = subprocess.Popen(
        [BIN / "dask", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def scheduler_file(tmp_path_factory):
    """Start a scheduler and a worker, in a folder of their own."""
    path = tmp_path_factory.mktemp("cluster") / "scheduler.json"
    options = ("--scheduler-file", str(path), "--host", "127.0.0.1", "--no-dashboard")
    with ended("scheduler", "--port", "0", *options):
        while not path.exists():
            time.sleep(0.05)
        work = ("--nthreads", "1", "--local-directory", str(path.parent))
        with ended("worker", *options, *work):
            yield path


def test_a_running_cluster(here, capsys, scheduler_file):
    address = json.loads(scheduler_file.read_text())["address"]
    run(f"fit in/x m -k {K} --scheduler-file {scheduler_file}")
    run(f"transform in/x m t --scheduler {address}")
    expected = HierarchicalKMeans.from_zarr("in/model")
    np.testing.assert_array_equal(load("t")[:], expected.transform(values()))
    capsys.readouterr()
    run(f"transform in/nan m n --scheduler {address}", code=2)
    assert "NaN" in one_line(capsys.readouterr().err)
    assert entries(here) == ["m", "t"]


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((4000, 30), ((1000,) * 4, (30,))),
        ((4000, 30), ((999, 1, 3000), (7, 23))),
        ((40, 3000), ((40,), (1,) * 3000)),
        ((4000, 30), ((1009, 1009, 1009, 973), (30,))),
        ((9973,), ((9973,),)),
        ((0, 5), ((0,), (5,))),
    ],
)
def test_no_chunk_has_two_writers(shape, blocks, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "CHUNK_BYTES", 40_000)
    expected = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    array = da.from_array(expected, chunks=blocks)
    chunks = outputs.output_chunks(array)
    writers = outputs._cut_at(array, chunks)
    for sizes, chunk in zip(writers.chunks, chunks, strict=True):
        assert not np.any(np.cumsum(sizes)[:-1] % chunk)
    assert np.prod(chunks) * 4 <= 2 * 40_000
    outputs.fill(str(tmp_path / "o"), array, dask.compute)
    np.testing.assert_array_equal(load(tmp_path / "o")[...], expected)


def test_chunks_that_did_not_arrive_are_missed(tmp_path):
    def nothing(_):
        """Stand for workers that write to a disk of their own."""

    with pytest.raises(FileNotFoundError, match="1 of 1 chunks"):
        outputs.fill(str(tmp_path / "o"), da.zeros((4, 3)), nothing)


def test_chunks_of_zeros_are_written(tmp_path):
    outputs.fill(str(tmp_path / "o"), da.zeros((4, 3)), dask.compute)
    assert load(tmp_path / "o").nchunks_initialized == 1

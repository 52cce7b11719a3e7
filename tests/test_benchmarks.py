"""The benchmarks work: each one small, and what it prints and writes."""

import json
import time
from dataclasses import replace

import dask.array as da
import numpy as np
import psutil
import pytest
import zarr
from click.testing import CliRunner
from distributed import default_client, wait

from tests.benchmarks import evenness, processes, reading, start
from tests.benchmarks.__main__ import _wanted, main
from tests.benchmarks.catalogue import BENCHMARKS, KINDS, Method, small
from tests.benchmarks.data import blobs_zarr, fmri, patches
from tests.benchmarks.front import draw_all, front, overview
from tests.benchmarks.front import main as draw
from tests.benchmarks.job import OURS
from tests.benchmarks.judge import judge
from tests.benchmarks.measure import Round
from tests.benchmarks.run import run, written
from tests.benchmarks.summary import details, summarize
from tests.slow import others_slow


def invoke(tmp_path, name, *options):
    """Run a small benchmark; give what it printed and what it wrote."""
    output = tmp_path / "runs.json"
    where = ["--cache", str(tmp_path / "cache"), "--json", str(output)]
    arguments = [name, "--small", "--seeds", "1", *where, *options]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout, json.loads(output.read_text())


@pytest.mark.usefixtures("one_openmp_thread")
@pytest.mark.parametrize("name", others_slow(BENCHMARKS))
# Of faiss, whose types are made by SWIG.
@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")
def test_small_run(name, tmp_path):
    """Every method that can be imported runs, and is compared with ours."""
    stdout, found = invoke(tmp_path, name)
    assert found["environment"]["cpu"]
    benchmark = found["benchmarks"][name]
    methods = {n: m for n, m in BENCHMARKS[name].methods.items() if m.available}
    assert [run["method"] for run in benchmark["runs"]] == list(methods)
    for word in (f"{name}: ", "k=50", "unexplained", *methods):
        assert word in stdout
    for method in BENCHMARKS[name].methods.keys() - methods.keys():
        assert f"{name}: no {method}, " in stdout
    for one in benchmark["runs"]:
        assert one["seconds"] > 0
        assert one["peak_bytes"] > 1e7
        if one["n_nonempty"] is not None:
            assert 40 <= one["n_nonempty"] <= benchmark["n_clusters"] == 50
            assert 0 < one["unexplained_variance"] < 1
    ours = benchmark["summaries"][0]
    assert ours["method"] == "hkmeans_dask"
    assert ours["time_ratio"] == 1


@pytest.mark.slow
def test_what_passes_before_the_first_block_is_told():
    done = CliRunner().invoke(start.main, ["--features", "2000", "--repeats", "1"])
    assert done.exit_code == 0, done.output
    head, *lines = done.stdout.splitlines()
    assert head.split()[0] == "seconds"
    names = [
        "imports",
        "fit, threads",
        "fit, --workers 2",
        "first fit on a new cluster",
    ]
    for name, line in zip([*names, "second fit there"], lines, strict=True):
        seconds, _, cpu, _ = map(float, line.removeprefix(name).split())
        assert seconds > 0
        assert cpu > 0


def test_who_is_on_the_front():
    found = {"a": (2, 0.5), "b": (1, 0.7), "c": (3, 0.5), "d": (2, 0.6), "e": (9, 0.1)}
    assert front(found) == ["b", "a", "e"]


def test_a_peer_that_fails_is_left_out(tmp_path, capsys):
    def fail(job):
        raise RuntimeError("too few points")

    full = BENCHMARKS["bold_1"]
    methods = {OURS: full.methods[OURS], "peer": Method(fail)}
    little = replace(small(full), methods=methods)
    rounds = [Round(0, 0), Round(0, 1)]
    with written(little, tmp_path) as path:
        runs = list(run(little, list(methods), rounds, path, fresh=False))
        assert [one.method for one in runs] == [OURS, OURS]
        assert capsys.readouterr().err.count("too few points") == 1
        broken = replace(little, methods={OURS: Method(fail)})
        with pytest.raises(RuntimeError, match="too few"):
            list(run(broken, [OURS], rounds, path, fresh=False))


def test_the_front_is_drawn(tmp_path):
    invoke(tmp_path, "patches", "--methods", "inertia,refine_3")
    picture = tmp_path / "front.png"
    arguments = [str(tmp_path / "runs.json"), str(picture), "--cpu"]
    done = CliRunner().invoke(draw, arguments, catch_exceptions=False)
    assert "patches: on the front " in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_imbalance_is_drawn(tmp_path):
    methods = "balance_50,beyond,beyond_balance_100,minibatch"
    invoke(tmp_path, "patches", "bold_1", "--methods", methods)
    picture = tmp_path / "balance.png"
    arguments = [str(tmp_path / "runs.json"), str(picture)]
    CliRunner().invoke(evenness.main, arguments, catch_exceptions=False)
    assert picture.read_bytes().startswith(b"\x89PNG")
    ((at, left),) = evenness.points(
        {"summaries": [{"method": "a", "imbalance": 2, "unexplained_variance": 0.5}]}
    ).values()
    assert (at, left) == (2, 0.5)


def test_data_of_all_kinds_are_one_table_and_one_picture(tmp_path):
    def benchmark(**found):
        told = [
            {"method": name, "seconds": seconds, "unexplained_variance": left}
            for name, (seconds, left) in found.items()
        ]
        sizes = {"n_features": 1000, "n_samples": 9, "n_clusters": 5}
        return {**sizes, "summaries": told}

    benchmarks = {
        "one": benchmark(hkmeans_dask=(2, 0.5), nilearn=(4, 0.6)),
        "other": benchmark(hkmeans_dask=(1, 0.2), beyond=(1.5, 0.1)),
        "last": benchmark(hkmeans_dask=(1, 0.2)),
    }
    title, ours, nilearn, beyond = overview(benchmarks).splitlines()
    assert title.split()[-3:] == ["one", "other", "last"]
    assert ours.split() == ["hkmeans_dask", *["1.00", "1.0000"] * 3]
    assert nilearn.split() == ["nilearn", "2.00", "1.2000", "-", "-"]
    assert beyond.split() == ["beyond", "-", "1.50", "0.5000", "-"]
    draw_all(benchmarks, str(tmp_path / "all.png"))
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


def test_all_kinds_are_run_once_each():
    assert _wanted(("fmri", "kinds"))[:2] == ["fmri", "patches"]
    assert sorted(_wanted(("fmri", "kinds"))) == sorted(KINDS)
    assert "words" not in _wanted(()), "what is downloaded is asked for"


def test_what_is_wanted_is_run(tmp_path):
    stdout, found = invoke(tmp_path, "blobs", "--methods", "plain_read")
    runs = found["benchmarks"]["blobs"]["runs"]
    assert [run["method"] for run in runs] == ["hkmeans_dask", "plain_read"]
    assert "partial_fit" not in stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "'nothing' is not one of"),
        (["blobs", "--methods", "plain_read,magic"], "'magic' is not one of"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_peer_that_is_not_installed_is_left_out(tmp_path, monkeypatch):
    methods = BENCHMARKS["blobs"].methods | {
        "missing": Method(time.sleep, "no-such-distribution")
    }
    monkeypatch.setitem(vars(BENCHMARKS["blobs"]), "methods", methods)
    stdout, _ = invoke(tmp_path, "blobs")
    assert "blobs: no missing, no-such-distribution is not installed" in stdout


def test_a_benchmark_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    methods = {"hkmeans_dask": Method(time.sleep)}  # of a job: no number
    monkeypatch.setitem(vars(BENCHMARKS["skew"]), "methods", methods)
    output = tmp_path / "runs.json"
    where = ["--cache", str(tmp_path), "--json", str(output)]
    done = CliRunner().invoke(main, ["skew", "blobs", "--small", *where])
    assert done.exit_code == 1
    assert "skew failed: TypeError: " in done.stderr
    assert list(json.loads(output.read_text())["benchmarks"]) == ["blobs"]


@pytest.mark.slow
def test_a_fresh_process_measures_its_own_memory_and_reads(tmp_path):
    """What this process holds is not counted; a fit reads all twice, a sum once."""
    held = np.ones(10**8)  # 800 MB
    name = tmp_path / "blobs.zarr"
    blobs_zarr(name, n_features=400_000, n_samples=64)
    runs = list(
        run(
            small(BENCHMARKS["blobs"]),
            ["hkmeans_dask", "plain_read"],
            [Round(0, 0)],
            name,
        )
    )
    assert [one.reads for one in runs] == pytest.approx([2, 1], abs=0.1)
    assert max(one.peak_bytes for one in runs) < held.nbytes
    summaries = summarize(runs, "plain_read")
    assert summaries[0].limit_ratio == pytest.approx(1 / summaries[1].time_ratio)


def test_huge_data_do_not_stay(tmp_path):
    for name, kept in (("blobs", True), ("blobs_x4", False)):
        with written(small(BENCHMARKS[name]), tmp_path) as path:
            assert path.exists()
        assert path.exists() == kept


def fill_memory(n_bytes):
    """Bring the process to so many bytes, for longer than a worker's monitor waits."""
    block = np.ones((n_bytes - psutil.Process().memory_info().rss) // 8)
    time.sleep(1)
    return block


def test_workers_in_trouble_are_told(monkeypatch):
    """A task that needs 88% of the memory pauses its worker; its result is spilled."""
    monkeypatch.setattr(processes, "MEMORY_LIMIT", "500MB")
    with processes.computing(1) as watched:
        before = watched.usage()
        assert watched.troubles(before, watched.usage()) == []
        filled = default_client().submit(fill_memory, 440_000_000)
        wait(filled)
        told, tries = [], 50
        while len(told) < 2 and tries:
            after, tries = watched.usage(), tries - 1
            told = watched.troubles(before, after)
            time.sleep(0.1)
    assert "paused 1 times" in told[0]
    assert "spilled" in told[1]
    assert after[1].peak_bytes > 430_000_000


def test_restarted_workers_are_told():
    with processes.computing(2) as watched:
        before = watched.usage()
        default_client().restart()
        told = watched.troubles(before, watched.usage())
    assert told == ["2 workers were restarted"]


def test_tasks_are_counted_on_request(tmp_path):
    with written(small(BENCHMARKS["tiny_chunks"]), tmp_path) as path:
        where = (["hkmeans_dask"], [Round(0, 0)], path)
        (one,) = run(small(BENCHMARKS["tiny_chunks"]), *where, fresh=False)
    assert one.tasks["hkmeans-fine"] == 7, "one for each of sqrt(50) big clusters"
    assert any("hkmeans-fine 7" in line for line in details([one]))


@pytest.mark.parametrize("kind", ["numpy", "zarr", "dask"])
def test_the_verdict_is_the_definition(kind):
    """Unexplained: what the means of the clusters leave of all the variance."""
    X = np.random.default_rng(0).normal(1000, 1, size=(60, 5)).astype(np.float32)
    labels = np.arange(60) % 7
    means = np.array([X[labels == cluster].mean(axis=0) for cluster in range(7)])
    left = ((X - means[labels]) ** 2).sum() / ((X - X.mean(axis=0)) ** 2).sum()
    if kind == "zarr":
        X = zarr.create_array({}, data=X, chunks=(13, 5))
    elif kind == "dask":
        X = da.from_array(X, (13, 5))
    verdict = judge(X, labels + 100)
    np.testing.assert_allclose(verdict.unexplained_variance, left, rtol=1e-4)
    assert verdict.n_nonempty == 7
    sizes = np.bincount(labels)
    assert verdict.imbalance == pytest.approx(7 * (sizes**2).sum() / len(labels) ** 2)
    np.testing.assert_allclose(judge(X, np.zeros(60, int))[0], 1)
    np.testing.assert_allclose(judge(X, np.arange(60))[0], 0, atol=1e-12)
    with pytest.raises(ValueError, match="one per feature"):
        judge(X, labels[:-1])


def test_the_verdict_adds_up_over_blocks(monkeypatch):
    X = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    labels = np.arange(1000) % 10
    whole = judge(X, labels)
    monkeypatch.setattr("tests.benchmarks.judge.BLOCK_BYTES", 4000)
    np.testing.assert_allclose(judge(X, labels), whole)


def test_the_data_are_what_they_say(tmp_path):
    windows = patches(stride=100)
    assert windows.dtype == np.float32
    assert windows.shape[1] == 8 * 8 * 3
    assert 0 <= windows.min() < windows.max() <= 1
    volume = fmri(side=8, n_samples=20)
    assert volume.shape == (512, 20)
    assert volume.dtype == np.float32
    assert (volume == fmri(side=8, n_samples=20)).all()
    neighbours = np.corrcoef(volume)[np.arange(511), np.arange(1, 512)]
    assert neighbours.mean() > 0.3, "the sources are smooth"
    blobs_zarr(tmp_path / "x.zarr", 2000, 8, n_blobs=20, in_one_place=0.9)
    blobs = zarr.open_array(tmp_path / "x.zarr")[:]
    spread = blobs.reshape(20, 100, 8).std(axis=1).mean(axis=1)
    assert (spread[:18] < 0.1).all()
    assert (spread[18:] > 0.5).all()
    together = np.linalg.norm(blobs[:1800] - blobs[0], axis=1)
    assert together.max() < 2, "nine tenths in one place"


def test_what_is_measured_of_grown_data_is_done(tmp_path):
    _, found = invoke(tmp_path, "grown", "--methods", "label_new,move_centers")
    anew, labelled, moved = found["benchmarks"]["grown"]["summaries"]
    assert 1.9 < anew["reads"] < 2.3
    assert 0.4 < labelled["reads"] < 0.8, "only the new ones are read"
    assert 2.9 < moved["reads"] < 3.4
    assert moved["unexplained_variance"] < labelled["unexplained_variance"]


def test_a_store_that_waits_is_read(capsys):
    reading.main(["--chunks", "2", "--rounds", "1"], standalone_mode=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    kinds = [(codec, kind) for codec in reading.CODECS for kind in ("wall", "CPU")]
    assert [tuple(line[:2]) for line in lines] == kinds
    assert float(lines[0][3]) > 20

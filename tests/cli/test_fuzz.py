"""Whatever the arguments are, a command ends, and says in one line what is wrong."""

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hkmeans_dask import HierarchicalKMeans, fitting
from hkmeans_dask.cli.commands import commands, main
from hkmeans_dask.storage import outputs
from tests.cli.test_commands import one_line
from tests.strategies import quick

X = np.random.default_rng(0).normal(size=(60, 4)).astype("f4")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Write what commands read, and what is none of it."""
    folder = tmp_path_factory.mktemp("fuzz")
    zarr.create_array(folder / "x", shape=X.shape, chunks=(20, 4), dtype="f4")[...] = X
    model = HierarchicalKMeans(6).fit(X)
    model.to_zarr(folder / "m")
    zarr.create_array(folder / "reduced", data=model.transform(X))
    zarr.create_group(folder / "group").create_array("a", data=X)
    shutil.make_archive(str(folder / "x.zarr"), "zip", folder / "x")
    with zipfile.ZipFile(folder / "empty.zip", "w"):
        pass
    (folder / "text").write_text("hello")
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("not/there")
    (folder / "linked").symlink_to("x")
    (folder / "piped").mkdir()
    os.mkfifo(folder / "piped" / "zarr.json")
    shutil.copytree(folder / "x", folder / "endless")
    text = (folder / "endless" / "zarr.json").read_text()
    (folder / "endless" / "zarr.json").write_text(text.replace("60", str(2**50)))
    return folder


PATHS = (
    *("x", "m", "reduced", "group", "x.zarr.zip", "empty.zip", "text", "empty"),
    *("pipe", "loop", "nowhere", "linked", "piped", "endless", "new", "new/er"),
    *("", " ", ".", "..", "../..", "~", "x/", "./x", "x/../x", "m/..", "sub/../new"),
    *("text/new", "pipe/new", "loop/new", "x/c", "x/c/0", "x/zarr.json"),
    *("x\0", "\0", "new\0", "new\n", "n\udc80ew", "\udcff", "néw", "-", "--", "*?["),
    *("n" * 300, "n/" * 3000 + "n", "/dev/null", "/dev/zero", "/dev/full"),
    *("/dev/zero/new", "/proc/self/mem", "/proc/1/fd", "/proc/new/er"),
    *("zip://x.zarr.zip", "zip://x", "zip://", "zip://::x.zarr.zip", "zip://::text"),
    *("zip://::new.zip", "zip://::pipe", "file:x", "file://", "file://x", "://", ":"),
    *("memory://", "memory://a", "nothing://x", "s3//x", "simplecache::x", "::"),
    *("a::b", "http://", "http://[::1", "http://127.0.0.1:1/x", "ftp://127.0.0.1:1/x"),
    *("github://x", "dask://x", "reference://x", "data:,x", "blockcache://x"),
)

NUMBERS = (
    *("0", "1", "-1", "6", "60", "61", "1000000", str(2**31), str(2**63), str(10**30)),
    *("-" + "9" * 30, "nan", "inf", "-inf", "1e3", "1.5", "", " ", "none", "None", "x"),
    *("\0", "٣", "0x10", "1_000", "+5", " 7 ", "9" * 5000, "true", "--", "-0", "²"),
    *("2GB", "1e400GB", "6,10", "0,0", "-1,-60", "8,8,3", "99999999999,1"),
)

WORDS = ("euclidean", "cosine", "size", "inertia", "k-means++", "random", "fine")

WORK = {"--n-init", "--refine", "--max-no-improvement", "--verbose"}
"""Options of which large numbers are no error, but work for hours, or many lines."""

EXCLUDED = {"--workers", "--scheduler", "--overwrite", "--debug"}
"""Those that start processes, look for hosts, or replace what is there."""


@st.composite
def command_lines(draw):
    """Give a command with arguments, most of which are in order."""
    name = draw(st.sampled_from(sorted(set(commands.commands) - {"demo"})))
    line = [name]
    for parameter in commands.commands[name].params:
        options = [option for option in parameter.opts if option.startswith("-")]
        if not options:
            usual = {"model_path": "new" if name == "fit" else "m", "output": "new"}
            source = "reduced" if name == "inverse-transform" else "x"
            good = usual.get(parameter.name, source)
            line.append(draw(st.one_of(st.just(good), st.sampled_from(PATHS))))
        elif not EXCLUDED & set(options) and draw(st.integers(0, 9)) == 0:
            values = NUMBERS[:3] if WORK & set(options) else NUMBERS
            value = draw(st.sampled_from((*values, *PATHS, *WORDS)))
            line += options[-1:] if parameter.is_flag else [options[-1], value]
    if name in ("fit", "plan") and "--n-clusters" not in line:
        line += ["-k", "6"]
    return line


@pytest.fixture
def ended(stores, tmp_path, monkeypatch, capsys):
    """Run a command in a folder with links to all that is to be read."""
    here = tmp_path / "a" / "b" / "here"
    monkeypatch.setenv("HOME", str(tmp_path / "a"))

    def run(line):
        shutil.rmtree(here.parent.parent, ignore_errors=True)
        (here / "sub").mkdir(parents=True)
        for path in stores.iterdir():
            (here / path.name).symlink_to(path)
        monkeypatch.chdir(here)
        code = main(line)
        said = capsys.readouterr().err.splitlines()
        errors = [text for text in said if text.startswith("hkmeans-dask: error: ")]
        assert code in (0, 2), said
        assert len(errors) == (code == 2), said
        assert not any("Traceback" in text for text in said)
        assert sorted(path.name for path in stores.iterdir()) == before
        return code, errors

    before = sorted(path.name for path in stores.iterdir())
    return run


@pytest.mark.timeout(60)
def test_any_arguments_end_in_one_line(ended):
    @settings(quick, max_examples=150, phases=[Phase.generate])
    @given(command_lines())
    def check(line):
        ended(line)

    check()


SAID = {
    "fit x\0 o -k 6": "null character",
    "fit x o -k 6 --work-dir nothing://w": "nothing://w is no URL that can be opened",
    "fit x o -k 6 --work-dir simplecache::s3://b/w": "the plain URL of one as a str",
    "plan x -k 6 --work-dir s3:/b/w": "the plain URL of one .* 's3:/b/w' was given",
    "fit x o -k 6 --work-dir w\0": "null character",
    "fit x o -k 6 --component ": "empty",
    "fit x.zarr.zip o -k 6": "A ZIP archive is zip://::PATH",
    "fit zip://x.zarr.zip o -k 6": "Give zip://::PATH",
    "fit empty.zip o -k 6": "A ZIP archive",
    "fit piped o -k 6": "piped/zarr.json is no file of metadata",
    "fit pipe o -k 6": "pipe is not there, or is no Zarr",
    "fit endless o -k 6": "are read at most",
    "fit /dev/zero o -k 6": "/dev/zero is not there, or is no Zarr",
    "fit x /dev/null/o -k 6": "/dev/null is not a folder",
    "fit x /proc/new/er -k 6": "/proc",
    "fit github://x o -k 6": "no URL that can be opened: .*'org'",
    "fit x nothing://o -k 6": "no URL that can be opened: Protocol not known",
    "fit group o -k 6 --component ../x": "invalid",
    "plan x -k 6 --scheduler-file /dev/zero": "not a file that a dask scheduler wrote",
    "plan x -k 6 --scheduler-file pipe": "not a file that a dask scheduler wrote",
    "plan x -k nan": "'nan' is not a valid integer",
    "plan x -k 6 --random-state -1": "random_state",
}


@pytest.mark.parametrize("line", SAID)
def test_what_is_wrong_is_named(ended, line):
    code, (error,) = ended(line.split(" "))
    assert code == 2
    assert re.search(SAID[line], error), error
    assert not list(Path.cwd().glob("*:"))


@pytest.mark.parametrize(
    "name", ["n\udc80ew", "new\n", "néw", "sub/../new", "*?[", " "]
)
def test_names_of_any_bytes_are_written_and_read(ended, name):
    assert ended(["fit", "x", name, "-k", "6", "--quiet"])[0] == 0
    assert main(["info", name]) == 0
    assert main(["transform", "x", name, f"{name}2", "--quiet"]) == 0
    there = {"sub", Path(name).name, Path(f"{name}2").name}
    assert {path.name for path in Path().iterdir() if not path.is_symlink()} == there


def test_an_archive_is_read(ended):
    assert ended(["fit", "zip://::x.zarr.zip", "o", "-k", "6", "--quiet"])[0] == 0


@pytest.mark.parametrize("stage", [(fitting, "train_coarse"), (outputs, "fill")])
def test_a_scheduler_that_dies_is_no_fault_of_ours(
    stores, tmp_path, monkeypatch, capsys, stage
):
    monkeypatch.chdir(stores)
    path = tmp_path / "scheduler.json"
    dask_command = Path(sys.executable).with_name("dask")
    options = ("--scheduler-file", path, "--host", "127.0.0.1", "--no-dashboard")
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def begin(kind, *more):
        return subprocess.Popen([dask_command, kind, *options, *more], **silent)

    scheduler = begin("scheduler", "--port", "0")
    worker = begin("worker", "--nthreads", "1", "--local-directory", tmp_path)
    module, name = stage
    original = getattr(module, name)

    def dying(*args, **kwargs):
        scheduler.kill()
        scheduler.wait()
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, dying)
    try:
        while not path.exists():
            assert scheduler.poll() is None
            time.sleep(0.05)
        line = "fit x {0} -k 6" if name == "train_coarse" else "transform x m {0}"
        line = f"{line.format(tmp_path / 'o')} --quiet --scheduler-file {path}"
        with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
            assert main(line.split()) == 2
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    assert "The scheduler has gone" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "o").exists()

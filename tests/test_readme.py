"""Every block of the README runs."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from tests import s3

pytestmark = s3.SESSIONS_LEFT_OPEN

README = (Path(__file__).parent.parent / "README.md").read_text()
BIN = Path(sys.executable).parent


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


PYTHON = blocks("python")
HPC = next(block for block in blocks("sh") if "sbatch" in block)
CLOUD = next(block for block in blocks("sh") if "s3://" in block)
SHELL = [line for block in blocks("sh") for line in block.splitlines()]
COMMANDS = [
    line
    for line in SHELL
    if line.startswith("hkmeans-dask") and line not in HPC + CLOUD
]
PATH = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make the input of the demo, small, in a folder of its own."""
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(1500, 12))
    values = (kinds.repeat(4, axis=0) + rng.normal(size=(6000, 12)) / 100).astype("f4")
    zarr.create_array(
        folder / "hkmeans-demo/patches.zarr", data=values, chunks=(900, 12)
    )
    return folder


def slurm_answers():
    """Whether a job can be sent to a SLURM here."""
    if shutil.which("sinfo") is None:
        return False
    asked = subprocess.run(["sinfo", "--noheader"], capture_output=True, check=False)
    return asked.returncode == 0 and asked.stdout != b""


def here(code):
    """Adapt a snippet to this machine: its network, and its SLURM if there is one."""
    code = code.replace('interface="ib0"', 'interface="lo"')
    if slurm_answers():
        return code
    return code.replace(
        "from dask_jobqueue import SLURMCluster",
        "from dask_jobqueue.local import LocalCluster as SLURMCluster",
    )


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_blocks_run(number, folder):
    code = f"if __name__ == '__main__':\n{indent(here(PYTHON[number]))}"
    script = folder / f"block{number}.py"
    script.write_text(code)
    ran = subprocess.run(
        [sys.executable, script.name],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stderr


def indent(code):
    return "".join(f"    {line}\n" for line in code.splitlines())


def shell(line, folder):
    """Run a line as a user would."""
    ran = subprocess.run(
        line,
        shell=True,
        env=os.environ | PATH,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert ran.returncode == 0, (line, ran.stderr)
    return ran.stdout


def test_commands_run_in_their_order(folder):
    assert len(COMMANDS) == 9
    for command in COMMANDS:
        shell(command, folder)
    labels = zarr.open_array(folder / "labels.zarr", mode="r")
    assert labels.shape == (6000,)
    assert len(np.unique(labels[:])) == 1000
    assert "1,000 clusters" in (folder / "report.html").read_text()


def test_the_job_of_the_hpc_page_runs(folder):
    submit = "sbatch --wait" if slurm_answers() else "bash"
    for line in HPC.splitlines():
        shell(line.replace("sbatch", submit), folder)
    assert HierarchicalKMeans.from_zarr(folder / "model-500.zarr").n_clusters_ == 500


@pytest.fixture
def background(folder):
    """Give a function that starts a line as a user would in another window."""
    started = []

    def start(line):
        how = {"shell": True, "env": os.environ | PATH, "cwd": folder}
        how |= dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
        started.append(subprocess.Popen(f"exec {line}", **how))

    yield start
    for process in reversed(started):
        process.terminate()
        process.wait()


def test_the_lines_of_the_cloud_run(folder, server, background):
    server.files().mkdir("my-bucket")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = CLOUD.replace("--host 10.0.0.1", f"--host 127.0.0.1 --port {port}")
    here = here.replace("10.0.0.1:8786", f"127.0.0.1:{port}")
    for line in here.splitlines():
        if line.startswith("dask"):
            background(line)
        else:
            said = shell(line, folder)
    assert re.search(r"n_clusters +500\n", said)
    model = HierarchicalKMeans.from_zarr("s3://my-bucket/model.zarr")
    X = zarr.open_array(folder / "hkmeans-demo/patches.zarr", mode="r")
    assert_array_equal(model.labels_, HierarchicalKMeans(500).fit(X).labels_)


def test_the_two_commands_come_first():
    assert SHELL[:2] == [
        "pip install . && hkmeans-dask demo",
        "pip install '.[test]' && pytest",
    ]


def test_the_pictures_are_there():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures
    for picture in pictures:
        assert (Path(__file__).parent.parent / picture).stat().st_size > 10_000

"""Job scripts that a plan writes: what they say, and that they run."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli.commands import main
from tests.test_readme import slurm_answers

X = np.random.default_rng(0).normal(size=(6000, 12)).astype("f4")
PLAN = ["plan", "x y.zarr", "-k", "50", "--random-state", "3", "--slurm"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zarr.create_array("x y.zarr", data=X, chunks=(900, 12))
    return tmp_path


def test_scripts_say_what_was_planned_and_assumed(folder, capsys):
    assert main([*PLAN, "--metric", "cosine", "--no-nested"]) == 0
    assert "sbatch hkmeans-job.sh: 1 workers" in capsys.readouterr().out
    for name in ("hkmeans-job.sh", "hkmeans-array.sh"):
        script = Path(name).read_text()
        assert "# Assumed: storage that gives" in script
        assert "#SBATCH --time=10\n" in script
        assert (
            "-k 50 --random-state 3 --metric cosine --work-dir hkmeans-work" in script
        )
        assert "fit 'x y.zarr' model-50.zarr" in script
        assert subprocess.run(["bash", "-n", name], check=True)
    assert "#SBATCH --array=0-1\n" in script
    assert main(PLAN) == 2
    assert "hkmeans-job.sh is already there" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("script", ["hkmeans-job.sh", "hkmeans-array.sh"])
def test_scripts_run(folder, script):
    """By SLURM where there is one, else task by task."""
    assert main([*PLAN, "--workers", "1"]) == 0
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    if slurm_answers():
        subprocess.run(["sbatch", "--wait", script], env=environment, check=True)
    else:
        environment["SLURM_ARRAY_JOB_ID"] = "7"
        tasks = [
            subprocess.Popen(
                ["bash", script], env=environment | {"SLURM_ARRAY_TASK_ID": number}
            )
            for number in (["0"] if "job" in script else ["1", "0"])
        ]
        assert [task.wait(120) for task in tasks] == [0] * len(tasks)
    model = HierarchicalKMeans.from_zarr("model-50.zarr")
    expected = HierarchicalKMeans(50, random_state=3).fit(X)
    assert_array_equal(model.labels_, expected.labels_)
    assert not list(folder.glob("hkmeans-*/*.pem"))


def test_files_of_tls_go_together(folder, capsys):
    Path("cert.pem").touch()
    fit = ["fit", "x y.zarr", "model", "-k", "5", "--tls-cert", "cert.pem"]
    for more in ([], ["--scheduler", "tls://127.0.0.1:1"], ["--workers", "1"]):
        assert main([*fit, *more]) == 2
        assert "go together" in capsys.readouterr().err


def test_a_cluster_that_wants_tls_wants_files(folder, capsys):
    fit = ["fit", "x y.zarr", "model", "-k", "5", "--scheduler", "tls://127.0.0.1:1"]
    assert main(fit) == 2
    assert "wants TLS. Give --tls-ca-file" in capsys.readouterr().err

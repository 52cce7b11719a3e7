"""The benchmarks work: each one small, and what it prints and writes."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tests.benchmarks.__main__ import main
from tests.benchmarks.data import fmri, patches
from tests.benchmarks.judge import judge
from tests.benchmarks.methods import METHODS
from tests.benchmarks.run import BENCHMARKS, SMALL_BENCHMARKS


@pytest.mark.usefixtures("one_openmp_thread")
@pytest.mark.parametrize("name", BENCHMARKS)
def test_small_run(name, tmp_path):
    """Both methods run on the same seeds and find as many clusters as asked."""
    output = tmp_path / "runs.json"
    arguments = [name, "--small", "--seeds", "1", "--json", str(output)]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    for word in (f"{name}: ", "k=50", "unexplained", *METHODS):
        assert word in done.stdout
    found = json.loads(output.read_text())
    assert found["environment"]["cpu"]
    benchmark = found["benchmarks"][name]
    runs = [(run["seed"], run["method"]) for run in benchmark["runs"]]
    assert runs == [(0, method) for method in METHODS]
    for run in benchmark["runs"]:
        assert run["n_nonempty"] == benchmark["n_clusters"] == 50
        assert 0 < run["unexplained_variance"] < 1
    ours = next(s for s in benchmark["summaries"] if s["method"] == "hkmeans_dask")
    assert ours["time_ratio"] == ours["variance_ratio"] == 1


def test_no_benchmark_is_without_a_small_one():
    assert SMALL_BENCHMARKS.keys() == BENCHMARKS.keys()


def test_unknown_benchmarks_are_refused():
    done = CliRunner().invoke(main, ["nothing"])
    assert done.exit_code == 2
    assert "'nothing' is not one of" in done.stderr


def test_the_verdict_is_the_definition():
    """Unexplained: what the means of the clusters leave of all the variance."""
    X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    labels = np.arange(60) % 7
    means = np.array([X[labels == cluster].mean(axis=0) for cluster in range(7)])
    left = ((X - means[labels]) ** 2).sum() / ((X - X.mean(axis=0)) ** 2).sum()
    verdict = judge(X, labels + 100)
    np.testing.assert_allclose(verdict.unexplained_variance, left, rtol=1e-5)
    assert verdict.n_nonempty == 7
    np.testing.assert_allclose(judge(X, np.zeros(60, int))[0], 1)
    np.testing.assert_allclose(judge(X, np.arange(60))[0], 0, atol=1e-12)
    with pytest.raises(ValueError, match="one per feature"):
        judge(X, labels[:-1])


def test_the_data_are_what_they_say():
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

"""What a plan says before a fit is what the fit does."""

from collections import Counter
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from dask.callbacks import Callback
from distributed import Client, LocalCluster

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.inputs import arrays
from hkmeans_dask.kmeans import sampling
from hkmeans_dask.planning.plan import size
from tests.strategies import Watched

VALUES = np.random.default_rng(0).normal(size=(900, 6)).astype(np.float32)
STAGES = {
    "sample": ("sample", "join", "check"),
    "coarse": ("coarse",),
    "partition": ("partition", "totals", "count"),
    "fine": ("axes", "fine", "centers"),
    "label": ("label", "labels", "model", "digest", "added"),
}


class Counted(Callback):
    """Counts the tasks of this package by the name of their key."""

    def __init__(self):
        self.found, self.seen = Counter(), set()

    def _posttask(self, key, result, graph, state, worker):
        name = key[0] if isinstance(key, tuple) else key
        if name.startswith("hkmeans-") and key not in self.seen:
            self.seen.add(key)  # what is held counts as a task again
            self.found[name.split("-")[1]] += 1


def counted(model, X):
    """Fit, and count tasks by stage; those that list the parts are on their own."""
    with Counted() as callback:
        model.fit(X)
    found = callback.found
    tasks = {
        stage: sum(found.pop(name, 0) for name in STAGES[stage]) for stage in STAGES
    }
    return tasks, found


def planned(plan, found):
    """Tasks of a plan, without those that list the parts (the same for two stages)."""
    lists = {"partition": 1, "fine": 1}
    assert found.pop("parts") == 1
    return {name: n - lists.get(name, 0) for name, n in plan.tasks.items()}


@pytest.mark.parametrize(
    ("height", "n_clusters", "most"),
    [(900, 16, 256), (100, 16, 256), (130, 30, 5), (7, 100, None), (300, 1, 3)],
)
@pytest.mark.parametrize("durable", [True, False])
def test_reads_and_tasks_are_exact(height, n_clusters, most, durable, tmp_path):
    array = Watched(VALUES)
    X = array.blocks((height, -1))
    model = HierarchicalKMeans(
        n_clusters,
        max_features_per_cluster=most,
        work_dir=tmp_path / "work" if durable else None,
    )
    plan = model.plan(X)
    assert array.reads == 0
    assert not (tmp_path / "work").exists()
    tasks, found = counted(model, X)
    assert planned(plan, found) == tasks
    assert not found
    assert array.reads == plan.n_passes * X.numblocks[0]
    assert plan.n_passes == model.n_passes_


def test_several_parts_are_counted(monkeypatch):
    monkeypatch.setattr(sampling, "ONE_PART_BYTES", 1000)
    monkeypatch.setattr(sampling, "PART_BYTES", 4000)
    X = Watched(VALUES).blocks((100, -1))
    model = HierarchicalKMeans(20)
    plan = model.plan(X)
    assert plan.tasks["sample"] == 9 + 8 + 1
    tasks, found = counted(model, X)
    assert planned(plan, found) == tasks


def test_a_copy_is_counted_and_read_once(monkeypatch, tmp_path):
    monkeypatch.setattr(arrays, "JOINED_BYTES", 2000)
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 2000)
    X = Watched(VALUES).blocks((300, 2))
    model = HierarchicalKMeans(16)
    plan = model.plan(X)
    assert (plan.n_passes, plan.tasks["copy"]) == (3, 9)
    assert plan.read_bytes == VALUES.nbytes
    assert plan.workspace_bytes >= VALUES.nbytes
    with pytest.warns(UserWarning, match="chunked along samples"):
        tasks, found = counted(model, X)
    assert found.pop("copy") == 9
    assert planned(plan, found) == {"copy": 9, **tasks}
    assert model.n_passes_ == 3


def on_disk(folder):
    return sum(
        path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()
    )


def test_bytes_are_within_five_percent(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200_000, 20)).astype(np.float32)
    X = zarr.create_array(tmp_path / "x.zarr", data=values, chunks=(10_000, 20))
    model = HierarchicalKMeans(400, work_dir=tmp_path / "work")
    plan = model.plan(X)
    stored = on_disk(tmp_path / "x.zarr")
    assert plan.read_bytes == pytest.approx(2 * stored, rel=0.05)
    kept = []
    original = Path.unlink

    def unlinked(path, missing_ok=False):
        if path.suffix in (".npz", ".raw") and path.exists():
            kept.append(path.stat().st_size)
        original(path, missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", unlinked)
        model.fit(X)
    written = sum(kept) + on_disk(tmp_path / "work")
    assert plan.workspace_bytes == pytest.approx(written, rel=0.05)


def test_a_plan_is_a_table():
    plan = HierarchicalKMeans(16).plan(VALUES)
    assert "passes over the data      2" in repr(plan)
    assert "tasks, fine" in repr(plan)
    html = plan._repr_html_()
    assert html.count("<tr>") == len(repr(plan).splitlines())
    assert plan.held_bytes == 0, "the rows of an X in this process are not copied"
    assert plan.flops < plan.flops_at_most


def test_a_plan_checks_what_a_fit_checks_and_leaves_the_estimator_alone():
    with pytest.raises(ValueError, match="n_clusters should be an integer"):
        HierarchicalKMeans(-2).plan(VALUES)
    model = HierarchicalKMeans(3)
    model.plan(VALUES)
    assert not hasattr(model, "n_features_in_")


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (123 * 10**6, "123 MB")],
)
def test_sizes_are_written_as_people_do(n_bytes, text):
    assert size(n_bytes) == text


def test_a_cluster_without_workers_is_planned_for():
    """Those that a batch system starts come later."""
    with (
        LocalCluster(
            n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster),
    ):
        plan = HierarchicalKMeans(3).plan(da.zeros((50, 4), chunks=(10, 4)))
    assert plan.n_passes == 2
    assert plan.n_threads == 1

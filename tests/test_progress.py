"""What is shown while a fit goes on: bars in a terminal, lines elsewhere, or nothing."""

import dask
import dask.array as da
import numpy as np
import pytest

from hkmeans_dask import HierarchicalKMeans, progress, store
from hkmeans_dask.execution import Runner
from tests.processes import PHASES

X = np.random.default_rng(0).normal(size=(6000, 8)).astype("f4")
BLOCKS = 12
REFINED = (*PHASES[:4], "refine", "label")


def lazy():
    return da.from_array(X, (len(X) // BLOCKS, -1))


@pytest.fixture
def bars(monkeypatch, capsys):
    """Show bars; give what each has counted by itself when its phase is done."""
    counts = {}
    complete = progress._Bar.complete

    def record(bar):
        if bar.began:
            counts[bar._name] = (bar._tqdm.n, bar._tqdm.total)
        complete(bar)

    monkeypatch.setattr(progress, "_can_show_bars", lambda: True)
    monkeypatch.setattr(progress._Bar, "complete", record)
    return counts


def check_counts(counts, n_big=4):
    assert list(counts) == list(REFINED)
    for name in ("sample", "label"):
        assert counts[name] == (BLOCKS, BLOCKS)
    assert counts["fine"] == (n_big, n_big)
    assert counts["partition"] == (1, 1)
    done, total = counts["coarse"]
    assert done == total > 1
    done, total = counts["refine"]
    assert done == total == 2 * BLOCKS


def fit_lazily(**options):
    return HierarchicalKMeans(16, refine=2, verbose=1, **options).fit(lazy())


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_local_tasks_move_the_bars(bars, scheduler):
    with dask.config.set(scheduler=scheduler):
        fit_lazily()
    check_counts(bars)


def test_tasks_on_a_cluster_move_the_bars(bars, two_processes):
    fit_lazily()
    check_counts(bars)
    prefixes = two_processes.run_on_scheduler(
        lambda dask_scheduler: list(dask_scheduler.task_prefixes)
    )
    for stage in REFINED:
        assert f"hkmeans-{stage}" in prefixes


def test_nobody_talks_where_nobody_listens(two_processes):
    HierarchicalKMeans(16).fit(lazy())
    topic = f"hkmeans-{two_processes.id}"
    assert two_processes.get_events(topic) == ()


def test_what_is_there_is_not_counted(bars, tmp_path):
    fit_lazily(work_dir=tmp_path)
    (folder,) = tmp_path.iterdir()
    for name in ("model", "nested", "fine-0", "fine-1", "refine-1", "refine-2"):
        (folder / f"{name}.npz").unlink()
    bars.clear()
    fit_lazily(work_dir=tmp_path)
    assert bars == {"fine": (2, 2), "refine": (2 * BLOCKS, 2 * BLOCKS)}


@pytest.mark.parametrize("level", ["fine", "coarse"])
def test_blocks_that_are_written_move_the_bar(bars, tmp_path, level):
    model = HierarchicalKMeans(16).fit(lazy())
    X = lazy()
    for name, result in (
        ("transform", model.transform(X, level=level)),
        ("predict", model.predict(X, level=level)),
        ("inverse-transform", model.inverse_transform(model.transform(X))),
    ):
        runner = Runner.find(result, in_memory=False)
        with progress.shown(1), progress.phase(name, {}):
            store.fill(str(tmp_path / name), result, runner.write)
    print(bars)
    for done, total in bars.values():
        assert done == total

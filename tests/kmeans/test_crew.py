"""Threads that share large calls."""

import numpy as np
import pytest

from hkmeans_dask.kmeans import crew


def parts(length=1000, unit=10, *, pays=True):
    found = []
    crew.in_parallel(found.append, length, unit, pays=pays)
    return sorted((part.start, part.stop) for part in found)


def test_a_call_that_does_not_pay_stays_whole():
    with crew.shared_tiles(4):
        assert parts(pays=False) == [(0, 1000)]
    assert parts() == [(0, 1000)], "one thread by default"


def test_threads_share_whole_units():
    with crew.shared_tiles(3):
        assert parts() == [(0, 340), (340, 680), (680, 1000)]
        assert parts(15) == [(0, 10), (10, 15)]
        assert parts(0) == [(0, 0)]


@pytest.mark.parametrize(("n_tasks", "n_parts"), [(0, 4), (1, 4), (2, 2), (3, 1)])
def test_tasks_that_run_at_once_share_the_threads(n_tasks, n_parts):
    with crew.shared_tiles(4):
        running = [crew.at_work() for _ in range(n_tasks)]
        for task in running:
            task.__enter__()
        assert len(parts()) == n_parts
        for task in running:
            task.__exit__(None, None, None)
        assert len(parts()) == 4


def test_a_task_that_fails_is_no_longer_counted():
    with crew.shared_tiles(2):
        with pytest.raises(ValueError, match="no"), crew.at_work():
            raise ValueError("no")
        with crew.at_work():
            assert len(parts()) == 2


def test_an_error_of_any_thread_is_raised():
    def fail(part):
        if part.start:
            raise np.linalg.LinAlgError(str(part.start))

    with crew.shared_tiles(2), pytest.raises(np.linalg.LinAlgError, match="500"):
        crew.in_parallel(fail, 1000, 10, pays=True)

"""What is waited for: what a scheduler knows of its workers."""

import time

from tests.processes import PATIENCE


def until(sign):
    """Wait until something is true; give what it is."""
    deadline = time.monotonic() + PATIENCE
    while not (found := sign()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def at_it(worker, stage):
    """Whether a worker is at a task of a stage."""
    keys = [str(task.key) for task in list(worker.processing)]
    return any(f"hkmeans-{stage}-" in key for key in keys)


def first_at(scheduler, stage):
    """Give a worker that is at a task of a stage, if there is one."""
    workers = list(scheduler.workers.values())
    return next((worker for worker in workers if at_it(worker, stage)), None)

"""Ctrl-C and SIGTERM: one line, an exit code, nothing left but what can be resumed."""

import os
import signal
import time

import psutil
import pytest

from tests.processes import SIZES, bits, fit, run

pytestmark = pytest.mark.slow

STOPS = {
    "ctrl-c": (signal.SIGINT, True, 130, "interrupted"),
    "term": (signal.SIGTERM, False, 143, "terminated"),
    "term to all": (signal.SIGTERM, True, 143, "terminated"),
}
"""Signal, whether the terminal or batch system sends it to the workers too, exit code
and word."""

PHASES = ("sample", "fine", "label")
WHERE = {"threads": (), "workers": ("--workers", 2)}

IN_THREADS = [(phase, how, "threads") for phase in PHASES for how in ("ctrl-c", "term")]
DURABLE = [(phase, "ctrl-c", "workers") for phase in PHASES]
TEMPORARY = [(phase, "term to all", "workers") for phase in PHASES]


def stop_in(phase, command, how):
    """Stop a command in the middle of a phase; see that it ends as it should."""
    number, group, code, word = STOPS[how]
    command.until_phase(phase)
    time.sleep(0.03)
    family = command.family()
    assert command.stop(number, group=group) == code, command.said()
    _, living = psutil.wait_procs(family, timeout=10)
    assert not living
    said = f"hkmeans-dask: {word}: what was not complete is removed."
    assert command.complaints() == [said]


@pytest.mark.parametrize(
    ("phase", "how", "where"), [*IN_THREADS, *DURABLE, ("fine", "term", "workers")]
)
def test_a_stopped_fit_can_go_on(phase, how, where, start, source, whole, tmp_path):
    here = tmp_path / "here"
    command = fit(source, here)
    stop_in(phase, start(*command, *WHERE[where], temporary=tmp_path), how)
    assert os.listdir(here) == ["work"]
    (folder,) = (here / "work").iterdir()
    assert not [name for name in os.listdir(folder) if name.startswith("lock")]
    assert run(start, *command).complaints() == []
    assert bits(here / "model") == whole.bits


def leftovers(folder):
    """Give what is in a temporary directory, but for the place of dask's workers."""
    return [path.name for path in folder.iterdir() if path.name.startswith("hkmeans-")]


@pytest.mark.parametrize(
    ("phase", "how", "where"), [*IN_THREADS, *TEMPORARY, ("fine", "ctrl-c", "workers")]
)
def test_a_stopped_fit_removes_its_temporary_folder(
    phase, how, where, start, source, tmp_path
):
    command = ("fit", source, tmp_path / "model", "-k", 400, "--verbose", 2)
    on_disk = {"workspace.places.LABEL_BYTES": 4, "planning.memory.CLUSTER_ROWS": 0}
    on_disk["inputs.arrays.BLOCK_BYTES"] = (
        2_000 * 32 * 4
    )  # small blocks: phases last longer
    running = start(
        *command, *WHERE[where], sizes=SIZES | on_disk, temporary=tmp_path / "temporary"
    )
    running.until_phase(phase)
    assert len(leftovers(tmp_path / "temporary")) == 1
    stop_in(phase, running, how)
    assert leftovers(tmp_path / "temporary") == []
    assert os.listdir(tmp_path) == ["temporary"]

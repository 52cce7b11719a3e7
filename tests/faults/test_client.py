"""A client that is killed: the same command again goes on and finds the same bits."""

import os
import shutil
import signal
import time

import numpy as np
import psutil
import pytest

from tests.processes import LEFT, PHASES, bits, fit, left, run, size_of
from tests.slow import others_slow

pytestmark = pytest.mark.slow

MOMENTS = 5


def kill(start, command, folder, phase, delay):
    """Kill a fit some time after a phase began; sooner if the fit ended before that."""
    running = start(*command)
    running.until_phase(phase)
    time.sleep(delay)
    done = running.stop(signal.SIGKILL) == 0
    if done or os.listdir(folder) != ["work"]:  # the model was being written
        shutil.rmtree(folder)
        kill(start, command, folder, phase, delay / 2)


@pytest.mark.parametrize("moment", others_slow(range(MOMENTS)))
@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_fit_goes_on(phase, moment, start, source, whole, tmp_path):
    """At random moments, one in each fifth of the time that a phase takes."""
    here = tmp_path / "here"
    rng = np.random.default_rng([PHASES.index(phase), moment])
    share = (moment + rng.random()) / MOMENTS
    kill(start, fit(source, here), here, phase, share * whole.command.seconds()[phase])
    assert os.listdir(here) == ["work"]
    finished = list((here / "work").glob("*/*.npz"))
    size = sum(path.stat().st_size for path in finished)
    again = run(start, *fit(source, here))
    assert bits(here / "model") == whole.bits
    assert again.complaints() == []
    assert left(here / "work") == LEFT
    read, written = whole.command.io() - again.io()
    assert written > size - 1000, "what was finished is not written again"
    if phase != "sample":
        assert read > 0.99 * size_of(source), "X is read once"
    elif finished:
        assert read > 0


@pytest.mark.parametrize("lead", [0, 0.4])
def test_two_clients_at_the_same_fit_end_well(lead, start, source, whole, tmp_path):
    """Started together, or the second while the first is in the middle of it."""
    one, other = tmp_path / "one", tmp_path / "other"
    running = [start(*fit(source, one))]
    time.sleep(lead)
    running.append(start(*fit(source, other, "--work-dir", one / "work")))
    assert [command.wait() for command in running] == [0, 0]
    assert bits(one / "model") == bits(other / "model") == whole.bits
    said = [line for command in running for line in command.complaints()]
    warned = sum("at the same fit" in line for line in said)
    assert warned in (1, 2), "the later one is warned; both, if they look together"
    assert left(one / "work") == LEFT


TWO = ("--workers", 2, "--memory-limit", "1GB")
ELSEWHERE = {
    "threads, then two workers": ((), TWO),
    "one worker, then two": (("--workers", 1), TWO),
    "two workers, then one": (TWO, ("--workers", 1)),
    "two workers, then threads": (TWO, ()),
}


@pytest.mark.parametrize("name", others_slow(ELSEWHERE))
def test_a_killed_fit_goes_on_elsewhere(name, start, source, whole, tmp_path):
    """And workers end when the client that started them is gone."""
    first, second = ELSEWHERE[name]
    command = fit(source, tmp_path)
    running = start(*command, *first)
    running.until(lambda: list(tmp_path.glob("work/*/fine-*")))
    family = running.family()
    assert running.stop(signal.SIGKILL) == -signal.SIGKILL
    assert not psutil.wait_procs(family, timeout=20)[1]
    assert run(start, *command, *second).complaints() == []
    assert bits(tmp_path / "model") == whole.bits

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


def test_two_clients_that_begin_together_end_well(start, source, whole, tmp_path):
    """Each stands still when begun, until the other has: one or both are warned."""
    one, other = tmp_path / "one", tmp_path / "other"
    running = [start(*fit(source, one)), start(*two_of(source, one, other))]
    for command in running:
        command.stand_still()
    for command in running:
        command.go_on()
    assert warned_of_each_other(running, whole, one, other) in (1, 2)


def test_a_client_at_the_fit_of_another_is_warned(start, source, whole, tmp_path):
    """The first stands still in the middle of it, until the second has looked."""
    one, other = tmp_path / "one", tmp_path / "other"
    first = start(*fit(source, one))
    first.until_phase("coarse")
    first.stand_still()
    second = start(*two_of(source, one, other))
    second.until_phase("sample")
    first.go_on()
    assert warned_of_each_other([first, second], whole, one, other) == 1


def two_of(source, one, other):
    """Give the arguments of a second fit that works in the folder of the first."""
    return fit(source, other, "--work-dir", one / "work")


def warned_of_each_other(running, whole, one, other):
    """Wait for both, which leave what one leaves; count their warnings."""
    assert [command.wait() for command in running] == [0, 0]
    assert bits(one / "model") == bits(other / "model") == whole.bits
    assert left(one / "work") == LEFT
    said = [line for command in running for line in command.complaints()]
    return sum("at the same fit" in line for line in said)


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

"""Simulated fits: the graphs are those of the plan, whoever runs them."""

import pytest
from click.testing import CliRunner

from tests.benchmarks import overheads, simulate, versions
from tests.benchmarks.simulate import Simulated, told


def test_a_simulated_fit_runs_what_the_plan_says_and_reads_twice():
    found = simulate.simulate(Simulated(40, 600_000, 16, 300), 3)
    assert found["tasks"] == found["tasks of the plan"]
    assert found["bytes read of X"] == found["bytes read, plan"]
    assert found["bytes read of X"] == 2 * 40 * 600_000 * 16 * 4
    assert found["tasks by function"]["label._label"] == 40
    assert found["tasks by function"]["fine._train"] == 17
    assert found["bytes between workers"] > 0
    assert found["scheduler, peak bytes"] < 10**9


def test_the_command_prints_what_it_found(monkeypatch):
    monkeypatch.setattr(simulate, "CASES", {"billion": Simulated(8, 1000, 4, 20)})
    ran = CliRunner().invoke(
        simulate.main, ["billion", "--part", "0.5", "--workers", "1"]
    )
    assert ran.exit_code == 0, ran.output
    assert "tasks of the plan" in ran.stdout


def test_numbers_are_written_as_people_do():
    assert told({"a": 12_345, "b": 0.12345}) == "a 12,345, b 0.123"
    assert told("2 GB") == "2 GB"


@pytest.mark.slow
def test_overheads_of_two_checkouts_are_shown_side_by_side(monkeypatch):
    names = list(overheads.FIGURES)[-2:]
    monkeypatch.setattr(overheads, "FIGURES", dict.fromkeys(names))
    arguments = [str(overheads.ROOT)] * 2 + ["--repeats", "1", "--part", "0.005"]
    done = CliRunner().invoke(overheads.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    header, *lines = done.stdout.splitlines()
    assert header.count("|") == 2
    assert [line.split(" | ")[0] for line in lines] == names
    assert all(float(value) > 0 for line in lines for value in line.split(" | ")[1:])


@pytest.mark.slow
def test_fits_of_two_checkouts_are_compared(tmp_path):
    where = [str(overheads.ROOT)] * 2 + ["words", "--small", "--cache", str(tmp_path)]
    also = ["--seeds", "2", "--also", '{"nested": false}']
    done = CliRunner().invoke(versions.main, where + also, catch_exceptions=False)
    assert done.exit_code == 0
    header, line = done.stdout.splitlines()
    assert header.count(overheads.ROOT.name) == 3
    name, old, new, beyond = line.split(" | ")
    assert name == "words"
    assert old.endswith("(1.00 / 1.000)")
    assert new.endswith("/ 1.000)"), "the same labels"
    assert 0 < float(beyond.split()[2]) < float(old.split()[2])

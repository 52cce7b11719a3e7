"""What is wrong with the input is told from what is wrong with the program."""

import numpy as np
import pytest
import zarr

from hkmeans_dask.cli import commands
from hkmeans_dask.cli.commands import main
from hkmeans_dask.storage import source
from tests.cli.test_commands import one_line


@pytest.fixture
def x(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(50, 4))
    zarr.create_array("x", data=values, chunks=(25, 4))


def not_foreseen(kind):
    """Go wrong as code does that was not meant to."""
    if kind is ValueError:
        return np.ones(3) + np.ones(4)
    if kind is TypeError:
        return len(3)
    if kind is AttributeError:
        return None.shape
    if kind is KeyError:
        return {}[kind]
    raise kind("of no use")


@pytest.mark.parametrize(
    "kind", [ValueError, TypeError, AttributeError, KeyError, AssertionError]
)
def test_faults_are_called_so(x, monkeypatch, capsys, kind):
    monkeypatch.setattr(commands, "_fitted", lambda *_: not_foreseen(kind))
    assert main("fit x m -k 3 --quiet".split()) == 1
    said = one_line(capsys.readouterr().err)
    assert said.startswith(f"this is a fault of hkmeans-dask itself, {kind.__name__}: ")
    assert said.endswith(". --debug shows where.")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", ["", "--workers 1"])
def test_faults_in_tasks_are_called_so(x, monkeypatch, capsys, where):
    """The line where an error was raised comes with it from a worker."""

    class Faulty(source.Source):
        def __getitem__(self, index):
            return not_foreseen(TypeError)

    monkeypatch.setattr(source, "Source", Faulty)
    assert main(f"fit x m -k 3 --quiet {where}".split()) == 1
    assert "itself, TypeError: " in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("command", "origin"),
    [
        ("--debug fit x m -k 3 --quiet", "return len(3)"),
        ("fit --debug x m -k 3 --quiet", "return len(3)"),
        ("fit x m -k 3 --quiet --refine -1 --debug", "check_parameters"),
        ("fit x m -k none --quiet --debug", "is not a valid integer"),
        ("info x --debug", "open_group"),
        ("report x --debug", "open_group"),
    ],
)
def test_debug_shows_where(x, monkeypatch, capsys, command, origin):
    monkeypatch.setattr(commands, "_fitted", lambda *_: not_foreseen(TypeError))
    assert main(command.split()) in (1, 2)
    traced, _, last = capsys.readouterr().err.strip().rpartition("\n")
    assert traced.startswith("Traceback (most recent call last):\n")
    assert origin in traced
    assert "--debug" not in one_line(last)


def test_without_debug_nothing_is_traced(x, capsys):
    assert main("fit x m -k 3 --quiet --refine -1".split()) == 2
    assert "refine should be" in one_line(capsys.readouterr().err)

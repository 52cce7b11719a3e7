"""Commands that write: as many threads as memory allows, as a fit; else a refusal."""

import dask
import psutil
import pytest
import zarr

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli.commands import main
from hkmeans_dask.runtime.execution import Runner
from tests.cli.test_commands import load, one_line, save, values

MB = 10**6
THREADS = 4
COMMANDS = {
    "transform": "x",
    "transform --level coarse": "x",
    "inverse-transform": "reduced",
    "predict": "x",
}


@pytest.fixture(scope="module", params=[0, 1])
def inputs(request, tmp_path_factory):
    """Make an array, a model of it and its means, with features along either axis."""
    folder, axis = tmp_path_factory.mktemp("inputs"), request.param
    X = values().T if axis else values()
    save(folder / "x", X, (10, 100) if axis else (100, 10))
    model = HierarchicalKMeans(9, feature_axis=axis, scaling=True).fit(X)
    model.to_zarr(folder / "model")
    save(folder / "reduced", model.transform(X))
    return folder


@pytest.fixture
def free(monkeypatch):
    """Say how much memory the machine has left."""
    free = type("Free", (), {"available": 10**12})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    return free


@pytest.fixture
def ran(monkeypatch):
    """Note how many threads write, of `THREADS` at most."""
    found, original = [], Runner.write

    def write(runner, *tasks):
        found.append(runner.n_threads)
        original(runner, *tasks)

    monkeypatch.setattr(Runner, "write", write)
    with dask.config.set(num_workers=THREADS):
        yield found


@pytest.mark.parametrize("command", COMMANDS)
def test_few_threads_write_where_memory_is_short(command, inputs, free, ran, tmp_path):
    words = [*command.split(), *(str(inputs / n) for n in (COMMANDS[command], "model"))]
    for name, available in ("whole", 10**12), ("short", 40 * MB):
        free.available = available
        assert main([*words, str(tmp_path / name)]) == 0
    assert ran[0] == THREADS
    assert 1 <= ran[1] < THREADS
    written = [load(tmp_path / name)[...].tobytes() for name in ("whole", "short")]
    assert written[0] == written[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_what_no_thread_can_hold_is_refused(command, inputs, free, tmp_path, capsys):
    free.available = MB
    words = [*command.split(), *(str(inputs / n) for n in (COMMANDS[command], "model"))]
    assert main([*words, str(tmp_path / "out")]) == 2
    said = one_line(capsys.readouterr().err.splitlines()[-1])
    assert "this machine can give it 0 MiB" in said
    assert not (tmp_path / "out").exists()


def test_a_large_block_is_that_of_the_store(tmp_path, free, capsys):
    """What reading it takes is counted, too, as in a fit."""
    save(tmp_path / "x", values(40_000, 100), (40_000, 100))
    HierarchicalKMeans(5).fit(values(100, 100)).to_zarr(tmp_path / "model")
    free.available = 34 * MB
    words = ["predict", *(str(tmp_path / name) for name in ("x", "model", "out"))]
    assert main(words) == 2
    assert "A prediction takes up to" in one_line(capsys.readouterr().err)
    assert zarr.open_array(tmp_path / "x").nbytes < free.available

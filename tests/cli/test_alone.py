"""Commands begin and end soon: workers start early, garbage is left to the system."""

import gc
import subprocess
import sys
import threading

import psutil
import pytest

from hkmeans_dask.cli import cluster
from hkmeans_dask.cli.cluster import Cluster
from hkmeans_dask.cli.commands import main
from tests.cli.test_commands import save, values

COLLECTED = """
import gc, sys
from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli.commands import main
fit = HierarchicalKMeans.fit
def watched(*args, **given):
    print(gc.isenabled(), gc.get_freeze_count() > 0)
    return fit(*args, **given)
HierarchicalKMeans.fit = watched
sys.argv[1:] = ["fit", *sys.argv[1:], "-k", "3"]
main()
"""


def test_workers_start_while_the_client_imports(monkeypatch):
    there, local = threading.Event(), Cluster._local

    def started(self):
        found = local(self)
        there.set()
        return found

    def imports():
        assert there.wait(120)

    monkeypatch.setattr(Cluster, "_local", started)
    monkeypatch.setattr(cluster, "import_estimator", imports)
    with Cluster(1, None, None).running():
        assert there.is_set()


def test_workers_end_where_something_fails_before_they_work():
    before = set(psutil.Process().children())
    with pytest.raises(ValueError, match="damaged"), Cluster(1, None, None).starting():
        raise ValueError("damaged")
    left = set(psutil.Process().children()) - before
    assert not [child for child in left if "spawn_main" in " ".join(child.cmdline())]


def test_workers_that_cannot_start_are_told_of_where_they_are_wanted(monkeypatch):
    def fails(self):
        raise OSError("no process more")

    monkeypatch.setattr(Cluster, "_local", fails)
    with Cluster(1, None, None).starting() as started:
        with pytest.raises(OSError, match="no process more"), started.running():
            pass


def test_garbage_of_a_fit_is_collected_but_no_modules(tmp_path):
    save(tmp_path / "x", values())
    command = [sys.executable, "-c", COLLECTED, tmp_path / "x", tmp_path / "m"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[0] == "True True"


def test_a_command_called_in_a_process_of_others_leaves_its_garbage_alone(tmp_path):
    save(tmp_path / "x", values())
    frozen = gc.get_freeze_count()
    assert main(["fit", str(tmp_path / "x"), str(tmp_path / "m"), "-k", "3"]) == 0
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen

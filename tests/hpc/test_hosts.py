"""Workers on other hosts, which are cut off, or do not see what they should."""

import shutil
import time

import pytest
from distributed import Security

from tests.hpc import hosts
from tests.hpc.conftest import write_keys
from tests.hpc.waiting import first_at
from tests.processes import bits, fit, run

pytestmark = pytest.mark.hpc


def in_memory(source, folder):
    """Give the arguments of a fit whose rows are in the memory of workers."""
    return ("fit", source, folder / "model", "-k", 400, "--verbose", 2)


@pytest.mark.parametrize("stage", ["sample", "fine", "label"])
def test_a_worker_that_is_cut_off_for_a_while_costs_no_bit(
    stage, cluster, two, client, source, whole, tmp_path, note
):
    command = client(*in_memory(source, tmp_path))
    away = command.until(lambda: first_at(cluster.scheduler, stage))
    assert away, command.said()
    (host,) = (host for host in two if host.address == away.host)
    host.cut_off()
    begin = time.monotonic()
    command.until(lambda: time.time() - away.last_seen > 3)
    host.connect()
    seconds = time.monotonic() - begin
    assert command.wait() == 0, command.said()
    assert bits(tmp_path / "model") == whole.bits
    note(f"cut off in {stage} for {seconds:.1f} s")


@pytest.mark.parametrize("stage", ["sample", "fine", "label"])
def test_a_worker_that_is_cut_off_for_good_costs_no_bit(
    stage, cluster, two, client, source, whole, tmp_path, note
):
    command = client(*in_memory(source, tmp_path))
    away = command.until(lambda: first_at(cluster.scheduler, stage))
    assert away, command.said()
    (host,) = (host for host in two if host.address == away.host)
    host.cut_off()
    assert command.wait() == 0, command.said()
    assert bits(tmp_path / "model") == whole.bits
    note(f"cut off in {stage} for good; {command.complaints()}")


# What a worker does not see


@pytest.fixture
def incomplete(source, tmp_path):
    """Copy X but for some chunks; give what shows a process the copy in its place."""
    copy = shutil.copytree(source, tmp_path / "copy")
    for number in range(3, 25):
        (copy / f"c/{number}/0").unlink()
    return hosts.showing(copy, source)


GONE = "was there when the client opened it, but is not as seen by process"


def test_a_worker_with_an_incomplete_copy_says_so(
    network, worker, incomplete, client, start, source, whole, tmp_path
):
    worker(network[1], before=incomplete)
    commands = {
        "fit": fit(source, tmp_path),
        "transform": ("transform", source, whole.model, tmp_path / "means"),
    }
    for command in commands.values():
        (said,) = run(client, *command, code=2).complaints()
        assert GONE in said
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "means").exists()
    run(start, *commands["fit"])
    assert bits(tmp_path / "model") == whole.bits


# Who may take part

STRANGERS = {
    "no key": ("tls", "wants TLS. Give --tls-ca-file, --tls-cert and --tls-key"),
    "another key": ("tls", "No cluster lets this client in at"),
    "no TLS": ("tcp", "No cluster lets this client in at"),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_nobody_takes_part_without_the_key(
    stranger, network, cluster, start, source, tmp_path
):
    protocol, words = STRANGERS[stranger]
    keys = write_keys(tmp_path, Security.temporary()) if "another" in stranger else ()
    address = cluster.scheduler_address.replace("tls", protocol)
    command = fit(source, tmp_path / "here", "--scheduler", address, *keys)
    (said,) = run(start, *command, code=2, namespace=network[0].file).complaints()
    assert words in said
    assert address in said
    assert not (tmp_path / "here").exists()

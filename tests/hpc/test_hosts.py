"""Workers on other hosts, which are cut off, or do not see what they should."""

import os
import time
from contextlib import ExitStack

import dask
import pytest
from distributed import LocalCluster, Security

from tests.hpc import hosts
from tests.hpc.waiting import first_at, until
from tests.processes import bits

pytestmark = pytest.mark.hpc

LOST = "12s"
"""Without an answer for so long a connection is lost (dask: 30 s)."""


@pytest.fixture(scope="module")
def network():
    """Give three hosts."""
    if reason := hosts.why_not():
        pytest.skip(reason)
    with hosts.network("head", "one", "other") as network:
        yield network


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Write a certificate; give the options that name it."""
    folder, made = tmp_path_factory.mktemp("keys"), Security.temporary()
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_text(made.tls_client_cert)
    key.write_text(made.tls_client_key)
    return "--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key


@pytest.fixture(scope="module")
def cluster(network, keys):
    """Start a scheduler on a host of its own, which takes those with the key."""
    signer, cert, key = map(str, keys[1::2])
    security = Security(
        tls_ca_file=signer,
        tls_scheduler_cert=cert,
        tls_scheduler_key=key,
        tls_client_cert=cert,
        tls_client_key=key,
        require_encryption=True,
    )
    with dask.config.set({"distributed.comm.timeouts.tcp": LOST}):
        with network[0].inside():
            cluster = LocalCluster(
                n_workers=0,
                host=network[0].address,
                security=security,
                dashboard_address="127.0.0.1:0",
            )
        with cluster:
            yield cluster


def registered(cluster, host):
    """Give the worker on a host, if there is one."""
    workers = list(cluster.scheduler.workers.values())
    return next((worker for worker in workers if worker.host == host.address), None)


@pytest.fixture
def worker(cluster, keys, tmp_path):
    """Start workers on hosts."""
    environment = os.environ | {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": LOST}
    options = ("--nthreads", 1, "--memory-limit", "1GB", "--no-dashboard", *keys)
    options += ("--local-directory", tmp_path)

    with ExitStack() as stack:

        def start(host, before=()):
            words = ("distributed.cli.dask_worker", cluster.scheduler_address, *options)
            running = host.running(*words, before=before, env=environment)
            stack.callback(host.connect)
            return stack.enter_context(running)

        yield start


@pytest.fixture
def two(network, cluster, worker):
    """Wait for a worker on each of two hosts; give the hosts."""
    hosts = network[1:]
    for host in hosts:
        worker(host)
    until(lambda: all(registered(cluster, host) for host in hosts))
    return hosts


@pytest.fixture
def client(network, cluster, keys, start):
    """Start commands that use the cluster, on a host of their own."""
    where = ("--scheduler", cluster.scheduler_address, *keys)
    return lambda *args: start(*args, *where, namespace=network[0].file)


def in_memory(source, folder):
    """Give the arguments of a fit whose rows are in the memory of workers."""
    return ("fit", source, folder / "model", "-k", 400, "--verbose", 2)


@pytest.mark.parametrize("stage", ["sample", "fine", "label"])
def test_a_worker_that_is_cut_off_for_a_while_costs_no_bit(
    stage, cluster, two, client, source, whole, tmp_path, note
):
    command = client(*in_memory(source, tmp_path))
    away = command.until(lambda: first_at(cluster.scheduler, stage))
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
    (host,) = (host for host in two if host.address == away.host)
    host.cut_off()
    assert command.wait() == 0, command.said()
    assert bits(tmp_path / "model") == whole.bits
    note(f"cut off in {stage} for good; {command.complaints()}")

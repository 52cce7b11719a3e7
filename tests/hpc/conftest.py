"""Fixtures of the trials, which are skipped where a machine cannot have them."""

import os
import subprocess
import uuid
from contextlib import ExitStack

import dask
import pytest
from distributed import LocalCluster, Security

from tests.hpc import hosts
from tests.hpc.waiting import until
from tests.test_readme import slurm_answers


@pytest.fixture
def note(record_property):
    """Write a line at the end of the log."""
    return lambda line: record_property("note", line)


@pytest.fixture(scope="module")
def job_name():
    """Give the name of all jobs of a module, which end with it."""
    if not slurm_answers():
        pytest.skip("no SLURM answers here; .ci/slurm starts one (root, Debian)")
    name = f"hkmeans-{uuid.uuid4().hex[:12]}"
    yield name
    subprocess.run(["scancel", f"--name={name}"], check=True)


# Hosts

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
    return write_keys(tmp_path_factory.mktemp("keys"), Security.temporary())


def write_keys(folder, made):
    """Write a certificate and its key; give the options that name them."""
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
    tcp = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": LOST}
    options = ("--nthreads", 1, "--memory-limit", "1GB", "--no-dashboard", *keys)
    options += ("--local-directory", tmp_path)

    with ExitStack() as stack:

        def start(host, before=()):
            words = ("distributed.cli.dask_worker", cluster.scheduler_address, *options)
            running = host.running(*words, before=before, env=os.environ | tcp)
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

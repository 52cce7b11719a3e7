"""Hosts that share nothing but an object store: the same bits, and few requests."""

import re
import signal
from collections import Counter

import pytest

from tests import s3
from tests.hpc import hosts
from tests.hpc.waiting import first_at, until
from tests.processes import bits

pytestmark = [*s3.SESSIONS_LEFT_OPEN, pytest.mark.hpc]

N_CHUNKS = 30


@pytest.fixture
def bucket(network, server, source, monkeypatch):
    """Make a bucket with X, on a server that all hosts reach."""
    name = server.bucket()
    server.files().put(str(source), f"{name}/x", recursive=True)
    with network[0].inside():
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.listen(network[0].address))
    return name


@pytest.fixture
def two(network, cluster, worker, source, bucket, tmp_path):
    """Start a worker on each of two hosts, which do not see the folders of tests."""
    here = hosts.hiding(source.parent, tmp_path)
    for host in network[1:]:
        worker(host, before=here)
    until(lambda: len(cluster.scheduler.workers) == 2)


def fit(bucket):
    there = f"s3://{bucket}"
    places = (f"{there}/x", f"{there}/model", "--work-dir", f"{there}/work")
    return ("fit", *places, "-k", 400, "--verbose", 2)


PLACES = {"x": "X", "work": "work_dir", "model": "model", ".model": "model"}


def counts(server, begin, note):
    """Note how many requests there were; count those that read each chunk of X."""
    requests = [(how, path.split("/", 2)[-1]) for how, path in server.requests[begin:]]
    kinds = Counter()
    for how, path in requests:
        first = re.match(r"\.?\w*", path)[0]
        kinds[PLACES.get(first, "the bucket"), how] += 1
    told = [f"{how} of {place}: {count}" for (place, how), count in kinds.items()]
    note(f"{len(requests)} requests; {', '.join(sorted(told))}")
    return Counter(p for how, p in requests if how == "GET" and p.startswith("x/c/"))


def is_whole(server, bucket, whole, folder):
    """Whether a model there is that of an undisturbed fit here."""
    server.files().get(f"{bucket}/model", str(folder / "model"), recursive=True)
    return bits(folder / "model") == whole.bits


def test_each_chunk_is_asked_for_twice(
    two, client, server, bucket, whole, tmp_path, note
):
    begin = len(server.requests)
    command = client(*fit(bucket))
    assert command.wait() == 0, command.said()
    assert command.complaints() == []
    assert sorted(counts(server, begin, note).values()) == [2] * N_CHUNKS
    assert is_whole(server, bucket, whole, tmp_path)


def test_a_killed_client_goes_on_without_a_read_more(
    two, cluster, client, server, bucket, whole, tmp_path, note
):
    begin = len(server.requests)
    command = client(*fit(bucket))
    command.until(lambda: first_at(cluster.scheduler, "fine"))
    assert command.stop(signal.SIGKILL) == -signal.SIGKILL
    note(f"killed after {len(server.requests) - begin} requests")
    command = client(*fit(bucket))
    assert command.wait() == 0, command.said()
    assert command.complaints() == []
    assert sorted(counts(server, begin, note).values()) == [2] * N_CHUNKS
    assert is_whole(server, bucket, whole, tmp_path)


def test_a_host_that_loses_the_store_too_costs_no_bit(
    network, two, cluster, client, server, bucket, whole, tmp_path, note
):
    begin = len(server.requests)
    command = client(*fit(bucket))
    away = command.until(lambda: first_at(cluster.scheduler, "sample"))
    assert away, command.said()
    (host,) = (host for host in network if host.address == away.host)
    host.cut_off()
    assert command.wait() == 0, command.said()
    assert command.complaints() == []
    counts(server, begin, note)
    assert is_whole(server, bucket, whole, tmp_path)

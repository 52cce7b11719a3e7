"""The benchmark of hosts that share nothing but an object store works, small."""

import json
import os
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("moto.server")
pytest.importorskip("s3fs")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None,
        reason="Only root makes network namespaces, with iproute2.",
    ),
]


def test_a_fit_there_has_the_bits_of_threads_and_goes_on(tmp_path):
    output = tmp_path / "found.json"
    size = ("--features", "40000", "--clusters", "400", "--json", str(output))
    command = [sys.executable, "-m", "tests.benchmarks", "hosts", *size]
    ran = subprocess.run(
        [*command, "--cache", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert ran.returncode == 0, ran.stderr
    assert "seconds, plain reads" in ran.stdout
    found = json.loads(output.read_text())
    assert found["the bits of threads"] == {"whole": True, "resumed": True}
    assert max(found["peak bytes"].values()) < 10**9
    assert found["resumed"]["requests by phase"]["fine"]["PUT"] < 20
    phases = found["whole"]["requests by phase"].values()
    assert sum(counts.get("HEAD", 0) for counts in phases) < 50

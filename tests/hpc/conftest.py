"""Fixtures of the trials, which are skipped where a machine cannot have them."""

import subprocess
import uuid

import pytest

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

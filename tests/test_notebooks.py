"""Every notebook runs, and is committed with its pictures."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"

NAMES = [
    "01_quickstart",
    "02_brain_parcellation",
    "03_hpc_slurm",
    "04_zarr_to_zarr",
    "05_sea_surface",
]

PACKAGES = {"05_sea_surface": "ferret-datasets"}
"""Packages of Debian that notebooks fetch, not installed."""


def outputs(notebook):
    """Give what the cells show."""
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def complaints(notebook):
    """Give what went wrong, or is not meant for the reader."""
    return [
        output
        for output in outputs(notebook)
        if output.output_type == "error" or output.get("name") == "stderr"
    ]


def pictures(notebook):
    """Give the positions of cells with a picture."""
    return [
        number
        for number, cell in enumerate(notebook.cells)
        for shown in cell.get("outputs", [])
        if {"image/png", "image/jpeg"} & set(shown.get("data", {}))
    ]


def is_known(package):
    """Whether apt knows a package here; where it is, it wants ``apt-get update``."""
    if shutil.which("apt-get") is None:
        return False
    asked = ["apt-get", "download", "--print-uris", package]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_all_are_tested():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    """In an empty folder, in which it leaves nothing."""
    if name in PACKAGES and not is_known(PACKAGES[name]):
        pytest.skip(f"apt does not know {PACKAGES[name]}")
    commands = Path(sys.executable).parent
    monkeypatch.setenv("PATH", str(commands), prepend=":")
    # nilearn's threads would spin for cores that other processes hold.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copy(FOLDER / f"{name}.ipynb", tmp_path)
    notebook, committed = read(name), read(name)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, resources=where).execute()
    assert complaints(notebook) == []
    assert pictures(notebook) == pictures(committed)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.ipynb"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_as_it_ran(name):
    notebook = read(name)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert complaints(notebook) == []
    assert len(pictures(notebook)) >= 2
    text = re.sub(r'"image/\w+": ".*?"', "", (FOLDER / f"{name}.ipynb").read_text())
    text = text.replace("#!/usr/bin/env bash", "")  # of the job script
    assert not re.search(r"(?<![\w.:/<])/(home|root|tmp|usr|opt|var|work)\b", text)

"""Jobs of SLURM: sent, ended, looked at."""

import subprocess
import sys
from pathlib import Path


def asked(*command):
    """Give what a command of SLURM says."""
    words = list(map(str, command))
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, (words, ran.stderr)
    return ran.stdout.strip()


def state(job):
    """Give the state of a job, such as RUNNING."""
    words = asked("scontrol", "--oneliner", "show", "job", job).split()
    return next(word for word in words if word.startswith("JobState=")).split("=")[1]


def sent(name, folder, lines, *options):
    """Send a job that runs lines of a script in a folder; give its number."""
    path = folder / "job.sh"
    here = f"export PATH={Path(sys.executable).parent}:$PATH"
    path.write_text("\n".join(["#!/bin/bash", "set -euo pipefail", here, *lines, ""]))
    common = (f"--job-name={name}", f"--chdir={folder}", "--output=%j.log")
    return asked("sbatch", "--parsable", *common, *options, path)


def said(job, folder):
    """Give the lines that a job wrote."""
    return (folder / f"{job}.log").read_text().splitlines()

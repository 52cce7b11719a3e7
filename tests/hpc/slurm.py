"""Jobs of SLURM: sent, ended, looked at."""

import subprocess


def asked(*command):
    """Give what a command of SLURM says."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, (command, ran.stderr)
    return ran.stdout.strip()


def state(job):
    """Give the state of a job, such as RUNNING."""
    words = asked("scontrol", "--oneliner", "show", "job", str(job)).split()
    return next(word for word in words if word.startswith("JobState=")).split("=")[1]

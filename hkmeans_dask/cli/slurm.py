"""Job scripts for SLURM that run a fit with what its plan says that it takes."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hkmeans_dask.cli.options import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hkmeans_dask.planning.plan import Plan

MOST_WORKERS = 8
"""Workers that a script asks for by itself, at most."""

READ_SPEED, FLOPS = 100e6, 2e9
"""Assumed: bytes a second of the storage in all, operations a second of a worker."""

MARGIN, LEAST_MINUTES = 2, 10
"""The walltime is so many times what that takes, and not less than this."""

SPARE = 2 * 2**30
"""Bytes for the client and the scheduler."""

ONE_JOB, ARRAY = Path("hkmeans-job.sh"), Path("hkmeans-array.sh")

HEAD = """\
#!/bin/bash
#SBATCH --job-name=hkmeans
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --mem={memory}M
#SBATCH --time={minutes}
{array}
# Assumed: storage that gives {read:.0f} MB/s in all, {flops:.0f} billion operations a
# second per worker, {margin} times the time that this takes. Change what is not so, and
# add what your cluster wants (--partition, --account, modules, an environment).
# A job that ends with its walltime goes on when it is submitted again.
set -euo pipefail
"""

ONE = """\
{fit} --workers {workers} --memory-limit {limit}MiB
"""

MANY = """\
# Task 0 has the scheduler and the client, the others are workers. They find each other
# in a folder that all see, and take nobody who cannot read it.
umask 077
shared=$PWD/hkmeans-$SLURM_ARRAY_JOB_ID
tls=(--tls-ca-file "$shared/cert.pem" --tls-cert "$shared/cert.pem")
tls+=(--tls-key "$shared/key.pem")
if [ "$SLURM_ARRAY_TASK_ID" = 0 ]; then
  mkdir -p "$shared"
  rm -f "$shared/closed"
  python -c 'import sys
from pathlib import Path
from distributed import Security
made, folder = Security.temporary(), Path(sys.argv[1])
(folder / "key.pem").write_text(made.tls_client_key)
(folder / "cert.pem").write_text(made.tls_client_cert)' "$shared"
  dask scheduler --protocol tls --port 0 --no-dashboard "${{tls[@]}}" \\
    --scheduler-file "$shared/scheduler.json" &
  scheduler=$!
  trap 'kill $scheduler; rm -f "$shared"/*; touch "$shared/closed"' EXIT
  until [ -s "$shared/scheduler.json" ]; do kill -0 $scheduler; sleep 1; done
  {fit} --scheduler-file "$shared/scheduler.json" "${{tls[@]}}"
else
  until [ -s "$shared/scheduler.json" ]; do
    [ ! -e "$shared/closed" ] || exit 0
    sleep 1
  done
  dask worker --scheduler-file "$shared/scheduler.json" "${{tls[@]}}" --no-dashboard \\
    --nthreads 1 --memory-limit {limit}MiB --death-timeout 60
fi
"""


def write_scripts(
    plan: Plan, source: str, options: dict[str, Any], workers: int | None
) -> Iterator[tuple[str, str]]:
    """Write both scripts to the current folder; give what the table says of them.

    Raises
    ------
    FileExistsError
        If one of them is there.
    """
    for path in (ONE_JOB, ARRAY):
        if path.exists():
            raise FileExistsError(f"{path} is already there. Remove it first.")
    n_workers = workers or max(1, min(MOST_WORKERS, plan.tasks["label"] - 1))
    limit = math.ceil(1.25 * plan.worker_limit / 2**20 / 100) * 100
    spare = SPARE >> 20
    known = {
        "limit": limit,
        "workers": n_workers,
        "minutes": _minutes(plan, n_workers),
        "fit": _command(source, options),
        "read": READ_SPEED / 1e6,
        "flops": FLOPS / 1e9,
        "margin": MARGIN,
    }
    one = {"cpus": n_workers, "memory": n_workers * limit + spare, "array": ""}
    many = {
        "cpus": 1,
        "memory": limit + spare,
        "array": f"#SBATCH --array=0-{n_workers}",
    }
    ONE_JOB.write_text((HEAD + ONE).format(**known, **one))
    ARRAY.write_text((HEAD + MANY).format(**known, **many))
    yield "one job", f"sbatch {ONE_JOB}: {n_workers} workers on one node"
    yield "an array of jobs", f"sbatch {ARRAY}: {n_workers} workers on any nodes"


def _minutes(plan: Plan, n_workers: int) -> int:
    reading = plan.read_bytes / READ_SPEED
    computing = plan.flops / FLOPS / n_workers
    return max(LEAST_MINUTES, math.ceil(MARGIN * (reading + computing) / 60))


def _command(source: str, options: dict[str, Any]) -> str:
    """Write the fit that was planned."""
    work_dir = options.get("work_dir") or "hkmeans-work"
    given = {**options, "work_dir": work_dir}
    model = f"model-{options['n_clusters']}.zarr"
    words = ["hkmeans-dask", "fit", source, model, "-k", str(options["n_clusters"])]
    for name, (default, _, _) in PARAMETERS.items():
        value = given[name.removeprefix("--").replace("-", "_")]
        if value != default:
            words += [name, "none" if value is None else str(value)]
    if given["component"]:
        words += ["--component", given["component"]]
    words += ["--scaling"] * given["scaling"] + ["--no-nested"] * (not given["nested"])
    return shlex.join(words)

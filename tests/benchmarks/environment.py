"""Where the benchmarks ran: no time means anything without it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil
from dask.system import CPU_COUNT

from tests.benchmarks.job import installed

DISTRIBUTIONS = (
    "hkmeans_dask",
    "dask",
    "dask-ml",
    "distributed",
    "faiss-cpu",
    "flox",
    "nilearn",
    "numpy",
    "scikit-learn",
    "scipy",
    "superkmeans",
    "zarr",
)
"""Whose versions are printed beside the results."""


def environment() -> dict[str, str]:
    """Name processor, cores usable, memory, BLAS kernels forced, and versions."""
    return {
        "cpu": _cpu_model(),
        "cores": str(CPU_COUNT),
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE", "not set"),
        "python": platform.python_version(),
        **{name: installed(name) or "not installed" for name in DISTRIBUTIONS},
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()

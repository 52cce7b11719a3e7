"""Where the benchmarks ran: no time means anything without it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dask.system import CPU_COUNT

from tests.benchmarks.methods import DISTRIBUTIONS


def environment() -> dict[str, str]:
    """Name the processor, the cores usable, the BLAS kernels forced, the versions."""
    return {
        "cpu": _cpu_model(),
        "cores": str(CPU_COUNT),
        "OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE", "not set"),
        "python": platform.python_version(),
        **{name: _version(name) for name in DISTRIBUTIONS},
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:  # our own, run from a checkout
        return "not installed"

"""The benchmarks: data, number of clusters, methods, and where they compute."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import zarr

from tests.benchmarks import data, real
from tests.benchmarks.job import OURS, Method
from tests.benchmarks.methods import clustering, growing, out_of_core, reduction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

PLAIN_READ = "plain_read"
PLAIN_WRITE = "plain_write"


@dataclass(frozen=True)
class Data:
    """An array in a file."""

    file: str
    """Its name in the folder of the data; ``.npy`` is loaded, ``.zarr`` opened."""

    write: Callable[[Path], None]
    as_dask: bool = False
    """Whether methods get a dask array of Zarr's chunks, not the Zarr array."""

    keep: bool = True
    """Whether it may stay on disk when the benchmark is over."""

    def open(self, path: Path) -> Any:
        """Load or open it, or another array like it."""
        if path.suffix == ".npy":
            X = np.load(path)
            X.setflags(write=False)  # what a method changes, the judge would see
            return X
        array = zarr.open_array(path, mode="r")
        return da.from_zarr(array) if self.as_dask else array


@dataclass(frozen=True)
class Benchmark:
    """What is measured."""

    data: Data
    n_clusters: int
    methods: Mapping[str, Method]
    """By name, ours first; in every round they run in this order."""

    slow: tuple[str, ...] = ()
    """Methods that take minutes: run when asked for."""

    limit: str | None = None
    """The method that does no more than read or write everything once."""

    n_workers: int = 0
    """One-thread processes of 1 GB each; 0 for threads."""

    model_part: float = 0
    """Of the features, the first ones, that the model is of that methods need."""

    counts_tasks: bool = False
    on_request: bool = False
    """Whether it is left out when no benchmark is named: it takes many minutes."""


def _in_memory(write: Callable[[], NDArray[np.float32]]) -> Callable[[Path], None]:
    return partial(_save, make=write)


def _save(path: Path, make: Callable[[], NDArray[np.float32]]) -> None:
    with path.open("wb") as file:
        np.save(file, make())


PARTS = (25, 50, 75, 100)
"""Of `balance`, in hundredths."""

ROWS_KEPT = (16, 32, 64)
"""Training rows per small cluster, fewer than by default."""

SETTINGS: dict[str, dict[str, Any]] = {
    "inertia": {"allocation": "inertia"},
    "rows_16": {"max_features_per_cluster": 16},
    "inertia_16": {"allocation": "inertia", "max_features_per_cluster": 16},
    "beyond": {"nested": False},
    "refine_1": {"refine": 1},
    **{f"balance_{part}": {"balance": part / 100} for part in PARTS},
    **{
        f"beyond_balance_{part}": {"nested": False, "balance": part / 100}
        for part in PARTS
    },
    **{
        f"beyond_{n_rows}": {"nested": False, "max_features_per_cluster": n_rows}
        for n_rows in ROWS_KEPT
    },
    "beyond_72_init_5": {
        "nested": False,
        "max_features_per_cluster": 72,
        "n_init": 5,
    },
    "refine_3": {"refine": 3},
    "inertia_beyond": {"allocation": "inertia", "nested": False},
    "inertia_refine_1": {"allocation": "inertia", "refine": 1},
    "inertia_refine_2": {"allocation": "inertia", "refine": 2},
    "inertia_refine_3": {"allocation": "inertia", "refine": 3},
}
"""Ours, with parameters that are not the defaults."""

IN_MEMORY = {
    OURS: Method(clustering.ours),
    **{
        name: Method(partial(clustering.ours, **parameters))
        for name, parameters in SETTINGS.items()
    },
    "three_levels": Method(clustering.three_levels),
    "nilearn": Method(clustering.nilearn, "nilearn"),
    "nilearn_once": Method(partial(clustering.nilearn, n_init=1), "nilearn"),
    "faiss_two_level": Method(clustering.faiss_two_level, "faiss-cpu"),
    "faiss_flat": Method(clustering.faiss_flat, "faiss-cpu"),
    "superkmeans": Method(clustering.superkmeans, "superkmeans"),
    "superkmeans_refined": Method(
        partial(clustering.superkmeans, n_refinements=2), "superkmeans"
    ),
    "superkmeans_sq8": Method(
        partial(clustering.superkmeans, quantizer="sq8"), "superkmeans"
    ),
    "faiss_superkmeans": Method(clustering.faiss_superkmeans, "faiss-cpu"),
    "minibatch": Method(clustering.minibatch, "scikit-learn"),
    "dask_ml": Method(clustering.dask_ml, "dask-ml"),
}
WORKERS = {
    OURS: Method(clustering.ours),
    "rows_16": Method(partial(clustering.ours, max_features_per_cluster=16)),
    "beyond": Method(partial(clustering.ours, nested=False)),
    PLAIN_READ: Method(out_of_core.plain_read),
}
THREADS = WORKERS | {"partial_fit": Method(out_of_core.partial_fit, "scikit-learn")}
TRANSFORM = {
    OURS: Method(reduction.transform),
    PLAIN_READ: Method(out_of_core.plain_read),
    "flox": Method(reduction.flox, "flox"),
}
INVERSE_TRANSFORM = {
    OURS: Method(reduction.inverse_transform),
    PLAIN_WRITE: Method(reduction.plain_write),
}

GROWING = {
    OURS: Method(clustering.ours),
    "refine_1": Method(partial(clustering.ours, refine=1)),
    "label_new": Method(growing.label_new),
    "move_centers": Method(growing.move_centers),
    "move_centers_2": Method(partial(growing.move_centers, refine=2)),
}

PATCHES = Data("patches.npy", _in_memory(data.patches))
FMRI = Data("fmri.npy", _in_memory(data.fmri))
BOLD = {
    name: Data(f"{name}.npy", _in_memory(partial(data.bold, noise, smooth)))
    for name, noise, smooth in (
        ("bold_0", 0, 0),
        ("bold_1", 1, 0),
        ("bold_2", 2, 0),
        ("bold_smooth", 1.5, 1.2),
    )
}
LARGE = {"side": 56, "n_samples": 360, "n_sources": 1500}
BOLD |= {
    name: Data(f"{name}.npy", _in_memory(partial(data.bold, noise, **LARGE)))
    for name, noise in (("bold_large", 0.7), ("bold_noisy", 1.3))
}
REAL = {
    load.__name__: Data(f"{load.__name__}.npy", _in_memory(load))
    for load in (
        *(real.words, real.tags, real.fashion, real.digits, real.textures),
        *(real.gradients, real.seismic, real.fish, real.winds),
    )
}
PHOTOGRAPHS = Data("photographs.zarr", data.patches_zarr, as_dask=True)
BLOBS = Data("blobs.zarr", data.blobs_zarr)
BLOBS_HALF = Data("blobs_half.zarr", partial(data.blobs_zarr, n_features=4_000_000))
BLOBS_X4 = Data(
    "blobs_x4.zarr", partial(data.blobs_zarr, n_features=32_000_000), keep=False
)
WIDE = Data(
    "wide.zarr",
    partial(data.blobs_zarr, n_features=50_000, n_samples=20_000, n_blobs=500),
)
SKEW = Data("skew.zarr", partial(data.blobs_zarr, in_one_place=0.9))
TINY_CHUNKS = Data(
    "tiny_chunks.zarr",
    partial(data.blobs_zarr, n_features=4_000_000, n_samples=32, chunk_rows=200),
    as_dask=True,
)
ALONG_SAMPLES = Data(
    "along_samples.zarr",
    partial(data.blobs_zarr, chunk_rows=1_000_000, chunk_samples=16),
    keep=False,
)
SMALL: dict[Data, Callable[[Path], None]] = {
    PATCHES: _in_memory(partial(data.patches, stride=12)),
    FMRI: _in_memory(partial(data.fmri, side=16, n_samples=50)),
    **{
        bold: _in_memory(partial(data.bold, 1.0, side=16, n_samples=50))
        for bold in (*BOLD.values(), *REAL.values())
    },
    PHOTOGRAPHS: partial(data.patches_zarr, stride=12, chunk_rows=500),
    BLOBS: partial(data.blobs_zarr, n_features=4000, n_samples=8, chunk_rows=500),
    BLOBS_HALF: partial(data.blobs_zarr, n_features=2000, n_samples=8, chunk_rows=500),
    BLOBS_X4: partial(data.blobs_zarr, n_features=8000, n_samples=8, chunk_rows=500),
    WIDE: partial(data.blobs_zarr, n_features=1000, n_samples=200, chunk_rows=100),
    SKEW: partial(
        data.blobs_zarr,
        n_features=4000,
        n_samples=8,
        chunk_rows=500,
        in_one_place=0.9,
    ),
    TINY_CHUNKS: partial(data.blobs_zarr, n_features=4000, n_samples=8, chunk_rows=50),
    ALONG_SAMPLES: partial(
        data.blobs_zarr, n_features=4000, n_samples=8, chunk_rows=500, chunk_samples=4
    ),
}
"""The same in thousands of features."""

ASKED_FOR = (
    *("dask_ml", "three_levels", "rows_16", "inertia_16"),
    *(name for name in SETTINGS if "balance_" in name),
    *(f"beyond_{n_rows}" for n_rows in ROWS_KEPT),
)
SLOW_AT_1000 = ("nilearn_once", *ASKED_FOR)
SLOW_AT_10000 = ("nilearn", "faiss_flat", "minibatch", *ASKED_FOR)


def _out_of_core(data: Data, n_clusters: int, n_workers: int = 0) -> Benchmark:
    return Benchmark(
        data,
        n_clusters,
        WORKERS if n_workers or data.as_dask else THREADS,
        slow=("beyond", "partial_fit", "rows_16"),
        limit=PLAIN_READ,
        n_workers=n_workers,
    )


REAL_CLUSTERS = {
    **{"words": 148, "tags": 149, "fashion": 350, "digits": 25, "textures": 428},
    **{"gradients": 444, "seismic": 292, "fish": 42, "winds": 53},
    **{"fashion_1000": 1000, "textures_1000": 1000, "seismic_1000": 1000},
}
"""About a two-hundredth of the features, and many."""

BOLD_CLUSTERS = {"bold_smooth": 1000, "bold_large": 1000, "bold_noisy": 1000}

BENCHMARKS = {
    "patches": Benchmark(PATCHES, 1000, IN_MEMORY, SLOW_AT_1000),
    "patches_10000": Benchmark(PATCHES, 10_000, IN_MEMORY, SLOW_AT_10000),
    "patches_100000": Benchmark(
        PATCHES, 100_000, IN_MEMORY, SLOW_AT_10000, on_request=True
    ),
    "fmri": Benchmark(FMRI, 1000, IN_MEMORY, SLOW_AT_1000),
    "fmri_10000": Benchmark(FMRI, 10_000, IN_MEMORY, SLOW_AT_10000),
    **{
        name: Benchmark(bold, BOLD_CLUSTERS.get(name, 320), IN_MEMORY, SLOW_AT_1000)
        for name, bold in BOLD.items()
    },
    **{
        name: Benchmark(
            REAL[name.removesuffix("_1000")],
            k,
            IN_MEMORY,
            SLOW_AT_1000,
            on_request=True,
        )
        for name, k in REAL_CLUSTERS.items()
    },
    "blobs": _out_of_core(BLOBS, 1024),
    "blobs_workers": _out_of_core(BLOBS, 1024, n_workers=2),
    "blobs_16384": _out_of_core(BLOBS, 16_384),
    "blobs_16384_workers": _out_of_core(BLOBS, 16_384, n_workers=2),
    "blobs_half_16384_workers": replace(
        _out_of_core(BLOBS_HALF, 16_384, n_workers=2), on_request=True
    ),
    "blobs_x4": replace(_out_of_core(BLOBS_X4, 1024), on_request=True),
    "blobs_x4_workers": replace(_out_of_core(BLOBS_X4, 1024, 2), on_request=True),
    "wide": _out_of_core(WIDE, 500, n_workers=2),
    "skew": _out_of_core(SKEW, 1024, n_workers=2),
    "along_samples": replace(_out_of_core(ALONG_SAMPLES, 1024, 2), on_request=True),
    "tiny_chunks": replace(
        _out_of_core(TINY_CHUNKS, 10_000), counts_tasks=True, on_request=True
    ),
    "grown": Benchmark(PHOTOGRAPHS, 1000, GROWING, model_part=0.5),
    "transform": Benchmark(BLOBS, 1000, TRANSFORM, limit=PLAIN_READ, model_part=1),
    "inverse_transform": Benchmark(
        BLOBS, 1000, INVERSE_TRANSFORM, limit=PLAIN_WRITE, model_part=1
    ),
}


KINDS = ("patches", "fmri", *BOLD, *REAL_CLUSTERS)
"""Data of all kinds that are in memory: what a change of the training is judged by."""


def small(benchmark: Benchmark) -> Benchmark:
    """Make it one of seconds, that shows only that it works."""
    full = benchmark.data
    little = Data(full.file, SMALL[full], full.as_dask, full.keep)
    return replace(benchmark, data=little, n_clusters=50, slow=())

"""The arrays that are clustered, one feature a row: all generated, none downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import zarr
from sklearn.datasets import load_sample_images
from zarr.codecs import BloscCodec

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CHUNK_BYTES = 32 * 2**20

N_SOURCES = 200
BOLD_SOURCES = 600
NOISE_SD = 0.8


def patches(stride: int = 1) -> NDArray[np.float32]:
    """Cut scikit-learn's two sample images into windows of 8 x 8 pixels, 3 colours.

    Parameters
    ----------
    stride : int, default=1
        Keep one window in `stride`, along both axes of the image.

    Returns
    -------
    X : ndarray of shape (n_features, 192), float32
        Values in [0, 1]; 531,720 features with ``stride=1``.
    """
    shape = (8, 8, 3)
    windows = [
        np.lib.stride_tricks.sliding_window_view(image, shape)[::stride, ::stride]
        for image in load_sample_images().images
    ]
    rows = np.concatenate([w.reshape(-1, np.prod(shape)) for w in windows])
    X: NDArray[np.float32] = rows.astype(np.float32)
    X /= 255
    return X


def patches_zarr(path: Path, stride: int = 1, chunk_rows: int = 20_000) -> None:
    """Write the windows to Zarr, those of one image after those of the other."""
    zarr.create_array(path, data=patches(stride), chunks=(chunk_rows, 192))


def fmri(side: int = 58, n_samples: int = 400, seed: int = 0) -> NDArray[np.float32]:
    """Simulate a BOLD volume: smooth sources that overlap, and white noise.

    Parameters
    ----------
    side : int, default=58
        Voxels along each axis of the volume.
    n_samples : int, default=400
        Time points.
    seed : int, default=0

    Returns
    -------
    X : ndarray of shape (side**3, n_samples), float32
        Voxels in spatial (C) order.
    """
    rng = np.random.default_rng(seed)
    maps = np.stack([_bump(side, rng) for _ in range(N_SOURCES)], axis=1)
    courses = rng.standard_normal((N_SOURCES, n_samples)).astype(np.float32)
    X = rng.standard_normal((side**3, n_samples), dtype=np.float32)
    X *= NOISE_SD
    X += maps @ courses
    return X


def bold(
    noise: float,
    smooth: float = 0.0,
    side: int = 40,
    n_samples: int = 240,
    n_sources: int = BOLD_SOURCES,
) -> NDArray[np.float32]:
    """Simulate a BOLD volume of variance 1, where noise is the knob.

    Parameters
    ----------
    noise : float
        Standard deviation of the noise, in those of the signal.
    smooth : float, default=0
        Voxels over which it is smoothed; it then hangs on the sample before, too, and
        voxels are standardized, as in runs that were preprocessed. 0: white noise.
    side : int, default=40
        Voxels along each axis of the volume.
    n_samples : int, default=240
        Time points.
    n_sources : int, default=600
        Of the signal.

    Returns
    -------
    X : ndarray of shape (side**3, n_samples), float32
    """
    from scipy.ndimage import gaussian_filter
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(21)
    voxels = np.argwhere(np.ones((side, side, side), bool))
    sources = rng.uniform(0, side, (n_sources, 3))
    distances, near = cKDTree(sources).query(voxels, k=6)
    weights = np.exp(-((distances / 4) ** 2)) + 1e-6
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    courses = rng.standard_normal((n_sources, n_samples))
    X = np.einsum("nk,nkt->nt", weights, courses[near])
    volumes = rng.standard_normal((n_samples, side, side, side))
    if smooth:
        volumes = np.stack([gaussian_filter(v, smooth, mode="wrap") for v in volumes])
        for sample in range(1, n_samples):
            volumes[sample] = 0.4 * volumes[sample - 1] + 0.84**0.5 * volumes[sample]
    X += volumes.reshape(n_samples, -1).T * (noise / volumes.std())
    if smooth:
        X = (X - X.mean(axis=1, keepdims=True)) / X.std(axis=1, keepdims=True)
    return np.ascontiguousarray(X, np.float32)


def blobs_zarr(
    path: Path,
    n_features: int = 8_000_000,
    n_samples: int = 128,
    n_blobs: int = 4000,
    chunk_rows: int | None = None,
    chunk_samples: int | None = None,
    in_one_place: float = 0,
) -> None:
    """Write blobs to Zarr, blob after blob: features in order, as in space.

    Parameters
    ----------
    path : Path
    n_features, n_samples : int
        4.1 GB of float32 by default.
    n_blobs : int, default=4000
    chunk_rows : int, optional
        Chunks of 32 MB if not given.
    chunk_samples : int, optional
        All samples if not given: chunks of whole features.
    in_one_place : float, default=0
        Share of the blobs that are close together: at a twentieth of the distances.
    """
    rows = chunk_rows or max(1, CHUNK_BYTES // (4 * n_samples))
    array = zarr.create_array(
        path,
        shape=(n_features, n_samples),
        chunks=(rows, chunk_samples or n_samples),
        dtype="f4",
        compressors=BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"),
    )
    centers = np.random.default_rng(0).standard_normal((n_blobs, n_samples)) * 2
    close = int(in_one_place * n_blobs)
    centers[:close] = centers[0] + centers[:close] / 20
    for start in range(0, n_features, rows):
        stop = min(start + rows, n_features)
        rng = np.random.default_rng([1, start])
        block = rng.standard_normal((stop - start, n_samples), dtype=np.float32)
        blobs = np.arange(start, stop) * n_blobs // n_features
        block[blobs < close] /= 20
        block += centers[blobs]
        array[start:stop] = block


def _bump(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Place one Gaussian bump of height 1, 2 to 6 voxels wide, in a cube."""
    center, width = rng.uniform(0, side, 3), rng.uniform(2, 6)
    x, y, z = np.exp(-((np.arange(side) - center[:, None]) ** 2) / (2 * width**2))
    bump: NDArray[np.float64] = x[:, None, None] * y[:, None] * z
    return bump.ravel().astype(np.float32)

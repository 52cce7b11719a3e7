"""The demo, on small parts of its photographs."""

import shlex
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_sample_images

from hkmeans_dask.cli import demo
from hkmeans_dask.cli.commands import commands, main

PHOTOGRAPHS = [image[80:160, 200:300] for image in load_sample_images().images]
HEIGHT, WIDTH = 73, 93
N_FEATURES = 2 * HEIGHT * WIDTH
K = 50
ROWS = (
    "write",
    "sample",
    "coarse",
    "partition",
    "fine",
    "label",
    "transform",
    "inverse-transform",
    "picture",
    "report",
    "total",
    "reads of X",
    "peak memory",
    "features",
    "clusters",
    "unexplained variance",
    "picture",
    "report",
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Cut the photographs, and work in a folder of our own."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        small = SimpleNamespace(images=PHOTOGRAPHS)
        patch.setattr(demo, "load_sample_images", lambda: small)
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def printed(folder):
    """Run the demo into ``the demo``; give what it printed, as table and advice."""
    ran = CliRunner().invoke(commands, ["demo", "--output", "the demo", "-k", str(K)])
    assert ran.exit_code == 0
    assert ran.stderr == ""
    table, advice = ran.stdout.split("\n\n")
    rows = [(row[:26].strip(), row[26:]) for row in table.splitlines()]
    return rows, advice.splitlines()


def load(path):
    return zarr.open_array(path, mode="r")[:]


def each_window():
    """Name every window by photograph, row and column, in the order of the features."""
    return [
        (image, y, x) for image in (0, 1) for y in range(HEIGHT) for x in range(WIDTH)
    ]


def test_the_stores(printed, folder):
    assert sorted(path.name for path in (folder / "the demo").iterdir()) == [
        "demo.png",
        "means.zarr",
        "model.zarr",
        "patches.zarr",
        "reconstruction.zarr",
        "report.html",
    ]
    expected = [
        PHOTOGRAPHS[image][y : y + 8, x : x + 8].ravel()
        for image, y, x in each_window()
    ]
    patches, means = load("the demo/patches.zarr"), load("the demo/means.zarr")
    np.testing.assert_allclose(patches * 255, expected, rtol=1e-6)
    labels = load("the demo/model.zarr/labels")
    first = patches[labels == 0]
    np.testing.assert_allclose(means[0], first.mean(axis=0, dtype=float), rtol=1e-6)
    np.testing.assert_array_equal(load("the demo/reconstruction.zarr"), means[labels])


def test_the_table(printed, folder):
    rows, _ = printed
    assert tuple(name for name, _ in rows) == ROWS
    shown = dict(rows)
    exact = load("the demo/patches.zarr").astype("f8")
    error = ((exact - load("the demo/reconstruction.zarr")) ** 2).sum()
    unexplained = error / ((exact - exact.mean(axis=0)) ** 2).sum()
    assert shown["unexplained variance"] == f"{unexplained:.4f}"
    assert unexplained < 0.3
    assert shown["features"] == f"{N_FEATURES} of 192 values"
    assert shown["clusters"] == str(K)
    assert shown["reads of X"] == "2 by fit, 1 by transform"
    assert shown["picture"] == "the demo/demo.png"
    assert shown["report"] == "the demo/report.html"
    page = (folder / "the demo/report.html").read_text()
    assert f"{K} clusters of {N_FEATURES:,} features" in page
    assert page.count("data:image/png;base64,") == 24


def test_the_picture(printed):
    restored = load("the demo/reconstruction.zarr").reshape(-1, 8, 8, 3)
    sums, counts = np.zeros((2, 80, 100, 3)), np.zeros((2, 80, 100, 1))
    for (image, y, x), window in zip(each_window(), restored, strict=True):
        sums[image, y : y + 8, x : x + 8] += window
        counts[image, y : y + 8, x : x + 8] += 1
    expected = np.rint(sums / counts * 255)

    picture = np.asarray(Image.open("the demo/demo.png"))
    top = demo.TEXT + 2 * demo.GAP
    for index, photograph in enumerate(PHOTOGRAPHS):
        rows = picture[top + index * (80 + demo.GAP) :][:80]
        np.testing.assert_array_equal(rows[:, demo.GAP :][:, :100], photograph)
        after = rows[:, -demo.GAP - 100 : -demo.GAP]
        np.testing.assert_allclose(after, expected[index], atol=1)


def test_the_advice_works_as_typed(printed):
    _, (_, *advice) = printed
    info, predict, fit = (shlex.split(command)[1:] for command in advice)
    assert main(info) == 0
    assert main(predict) == 0
    labels = load("the demo/model.zarr/labels")
    np.testing.assert_array_equal(load("the demo/labels.zarr"), labels)
    fit[fit.index("3000")] = "200"
    assert main(fit[: fit.index("--workers")]) == 0


def test_results_are_replaced_when_asked(folder, capsys):
    (folder / "hkmeans-demo").mkdir()
    (folder / "hkmeans-demo/notes").write_text("mine")
    assert main(["demo", "-k", "5"]) == 0
    capsys.readouterr()
    assert main(["demo", "-k", "4"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(
        "hkmeans-dask: error: hkmeans-demo/patches.zarr is already there."
    )
    assert captured.out == ""
    assert len(load("hkmeans-demo/means.zarr")) == 5
    assert main(["demo", "-k", "4", "--overwrite"]) == 0
    assert len(load("hkmeans-demo/means.zarr")) == 4
    assert (folder / "hkmeans-demo/notes").read_text() == "mine"


def test_windows_that_overlap_make_the_photographs_again():
    grid = demo.Grid.of(PHOTOGRAPHS)
    (patches,) = dask.compute(demo.windows(PHOTOGRAPHS))
    parts = demo._compare(patches, patches, grid)
    assert sum(part.error for part in parts) == 0
    for number, photograph in enumerate(PHOTOGRAPHS):
        np.testing.assert_array_equal(demo._restored(parts, grid, number), photograph)


@pytest.mark.parametrize("n_means", [1, 7, 1000, 30_000])
def test_any_number_of_means_makes_a_mosaic(n_means):
    mosaic = demo._mosaic(np.full((n_means, 192), 0.5), 878)
    assert mosaic.height == 878
    assert 300 < mosaic.width < 1000

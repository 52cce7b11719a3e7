"""The report: what it says of models of every kind, and that a browser is content."""

import html
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import dask.array as da
import numpy as np
import pytest
import sklearn
import zarr
from numpy.testing import assert_allclose, assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli.commands import main
from hkmeans_dask.reporting import charts
from hkmeans_dask.reporting.advice import advise
from hkmeans_dask.reporting.page import _cluster, render

DIAGRAMS = hasattr(sklearn.base.BaseEstimator, "_html_repr")
VOID = {"meta", "link", "img", "br"}
FOREIGN = {"svg", "rect", "line", "circle", "polyline", "path"}


def values(n_features=600, n_samples=12, seed=0):
    return np.random.default_rng(seed).normal(size=(n_features, n_samples))


def fitted(X, n_clusters, **parameters):
    return HierarchicalKMeans(n_clusters, **parameters).fit(X)


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of each."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        """Note an element, and what it is in."""
        element = {"tag": tag, "text": "", "within": list(self.open)}
        self.elements.append(element | {"attributes": dict(attributes)})
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        """Note an element of SVG that closes itself."""
        assert tag in FOREIGN, f"{tag} cannot close itself"
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        """Close the element that is open."""
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        """Add text to all elements that are open."""
        for element in self.open:
            element["text"] += data

    def all(self, *tags):
        """List the elements of some kinds."""
        return [element for element in self.elements if element["tag"] in tags]

    def attributes(self, name):
        """List the values of an attribute."""
        found = [element["attributes"].get(name) for element in self.elements]
        return [value for value in found if value is not None]

    def rows(self, number):
        """Texts of the cells of a table, row by row."""
        table = self.all("table")[number]
        rows = [row for row in self.all("tr") if table in row["within"]]
        return [
            [cell["text"] for cell in self.all("th", "td") if row in cell["within"]]
            for row in rows
        ]


def read(model, shape=None):
    return Page(render(model, shape))


def check(page):
    """Hold a page against what every page must be."""
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    links = page.attributes("href") + page.attributes("src")
    assert all(link.startswith(("#", "data:")) for link in links)
    assert all(link[1:] in ids for link in links if link.startswith("#"))
    assert not page.all("script", "iframe", "object", "form")
    for name in ("aria-labelledby", "aria-describedby"):
        assert all(set(text.split()) <= set(ids) for text in page.attributes(name))
    for image in page.all("img"):
        assert image["attributes"]["alt"]
    for drawing in page.all("svg"):
        given = drawing["attributes"]
        if given.get("aria-hidden") != "true":
            assert given["role"] == "img"
            assert "aria-labelledby" in given or given["aria-label"]
            assert [t for t in page.all("title") if t["within"][-1] is drawing]
    headings = [int(h["tag"][1]) for h in page.all("h1", "h2", "h3", "h4")]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(headings))
    assert all("scope" in cell["attributes"] for cell in page.all("th"))
    for tag in ("header", "nav", "main", "footer"):
        assert len(page.all(tag)) == 1
    assert page.all("html")[0]["attributes"]["lang"] == "en"
    assert "nan" not in page.all("body")[0]["text"].lower().replace("looks for nan", "")


KINDS = {
    "one cluster": lambda: fitted(values(), 1),
    "two features": lambda: fitted(values(2), 2),
    "one sample": lambda: fitted(values(n_samples=1), 9),
    "equal features": lambda: fitted(np.ones((50, 3)), 1),
    "large and tiny values": lambda: fitted(values() * np.logspace(-150, 150, 12), 9),
    "wide": lambda: fitted(values(40, 30_000), 12),
    "many clusters": lambda: fitted(values(9000, 2), 6000),
    "features in columns": lambda: fitted(values().T, 20, feature_axis=1),
    "dask": lambda: fitted(da.from_array(values(), (100, 12)), 20),
    "array of centers": lambda: fitted(values(), 30, init=values(30, seed=1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_every_kind_have_a_page(kind):
    model = KINDS[kind]()
    page = read(model)
    check(page)
    n_clusters = model.n_clusters_
    assert page.all("h1")[0]["text"].startswith(f"{n_clusters:,} clusters of ")
    assert len(page.all("polyline")) == min(24, n_clusters)


def test_pages_stay_small():
    model = fitted(values(9000, 2), 6000)
    model.cluster_centers_ = np.zeros((6000, 30_000), np.float32)
    model.cluster_centers_[:, ::7] = values(6000, 4286)
    assert len(render(model)) < 1e6
    assert len(render(model, (100, 100, 3))) < 2e6


def test_the_same_model_gives_the_same_page():
    model = fitted(values(), 20)
    assert render(model) == render(model)


def three_blobs():
    """Clusters of 4, 3 and 2 features, of which only the first ones differ."""
    model = fitted(values(9), 3)
    model.sizes_, model.parents_ = np.array([4, 3, 2]), np.array([0, 1, 1])
    model.cluster_inertia_ = np.array([6.0, 1.5, 0.5])
    model.coarse_centers_ = np.zeros((2, 12))
    model.inertia_ = 8.0
    return model


def test_diagnostics_by_hand():
    model = three_blobs()
    assert_array_equal(model.coarse_sizes_, [4, 5])
    assert model.coarse_sizes_.dtype == np.int64
    assert_array_equal(model.coarse_inertia_, [6, 2])
    assert model.imbalance_ == pytest.approx(3 * (16 + 9 + 4) / 81)


def test_a_big_cluster_that_refining_left_without_small_ones_has_no_features():
    model = three_blobs()
    model.coarse_centers_ = np.zeros((3, 12))
    assert_array_equal(model.coarse_sizes_, [4, 5, 0])
    assert_array_equal(model.coarse_inertia_, [6, 2, 0])
    assert ["2", "0", "0"] in [row[:3] for row in read(model).rows(2)]


@pytest.mark.parametrize("lazy", [False, True])
def test_inertia_of_clusters_by_definition(lazy):
    X = values().astype("f4")
    model = fitted(da.from_array(X, (130, 12)) if lazy else X, 40)
    labels = np.asarray(model.labels_)
    squared = ((X - model.cluster_centers_[labels].astype("f8")) ** 2).sum(axis=1)
    assert_allclose(model.cluster_inertia_, np.bincount(labels, squared), rtol=1e-5)
    assert model.inertia_ == model.cluster_inertia_.sum()
    assert_allclose(model.coarse_inertia_.sum(), model.inertia_)
    assert model.coarse_sizes_.sum() == 600


def test_what_the_tables_say():
    page = read(three_blobs())
    large, small, big, phases, parameters, given = map(page.rows, range(6))
    assert large[1:] == [["0", "4", "44.4%", "0", "1.5"]]
    assert small[1:] == [["2", "2", "22.2%", "1", "0.25"]]
    assert big[1:] == [
        ["1", "2", "5", "55.6%", "25.0%"],
        ["0", "1", "4", "44.4%", "75.0%"],
    ]
    stages = ["sample", "coarse", "partition", "fine", "label"]
    assert [row[0] for row in phases[1:]] == stages
    assert [row[3] for row in phases[1:]] == ["1", "0", "0", "0", "1"]
    assert phases[1][4] == "864 bytes"  # 9 x 12 values of 8 bytes
    assert parameters[0] == ["n_clusters", "3"]
    assert parameters[1] == ["init", "k-means++ (default)"]
    assert given[0] == ["shape of X", "9 x 12"]


def test_passes_that_refined_are_told():
    model = HierarchicalKMeans(9, refine=2).fit(values(300))
    phases = {row[0]: row[3] for row in read(model).rows(3)[1:]}
    assert phases["refine"] == str(model.n_passes_ - 2) != "0"


def test_bars_by_hand():
    chart = charts.histogram(np.array([1, 1, 2, 5]))
    assert [bar.title for bar in chart.bars] == [
        "1 features: 2 clusters",
        "2 features: 1 clusters",
        "5 features: 1 clusters",
    ]
    assert [bar.height for bar in chart.bars] == [1, 0.5, 0.5]
    unit = charts.PLOT_WIDTH / 5
    assert_allclose([bar.left for bar in chart.bars], [0, unit, 4 * unit])
    chart = charts.shares(np.array([4, 5]), np.array([6.0, 2.0]))
    assert_allclose([bar.height for bar in chart.bars], [1, 0.25 / 0.75])
    assert_allclose([bar.mark for bar in chart.bars], [4 / 9 / 0.75, 5 / 9 / 0.75])


def test_a_logarithmic_histogram_counts_every_cluster_once():
    sizes = np.random.default_rng(0).zipf(1.5, 3000).clip(1, 10**6)
    chart = charts.histogram(sizes)
    assert chart.logarithmic
    counts = [re.search(r": ([\d,]+) clusters", bar.title)[1] for bar in chart.bars]
    assert sum(int(count.replace(",", "")) for count in counts) == 3000
    assert all(0 <= tick.place <= charts.PLOT_WIDTH for tick in chart.x_ticks)


def test_each_circle_of_the_map_names_its_cluster():
    model = three_blobs()
    titles = re.findall(r"<circle [^>]*><title>(.*?)</title>", render(model))
    assert sorted(titles) == [
        "Cluster 0: 4 features, big cluster 0",
        "Cluster 1: 3 features, big cluster 1",
        "Cluster 2: 2 features, big cluster 1",
    ]


def test_the_map_keeps_distances():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(50, 2)) * [3, 1]
    axes = np.linalg.qr(rng.normal(size=(9, 2)))[0].T
    drawn = charts.map_of_centers(
        plane @ axes, rng.integers(1, 99, 50), np.zeros(50, int), np.array([50])
    )
    assert sum(drawn.explained) == pytest.approx(1)
    ((_, dots),) = drawn.dots
    placed = np.array([(dot.x * drawn.aspect, dot.y) for dot in dots])
    numbers = [int(re.match(r"Cluster (\d+)", dot.title)[1]) for dot in dots]
    before = np.linalg.norm(plane[numbers, None] - plane[None, numbers], axis=2)
    after = np.linalg.norm(placed[:, None] - placed[None], axis=2)
    scale = after.max() / before.max()
    assert_allclose(after, before * scale, atol=1e-6 * after.max())
    assert all(0 < dot.x < 100 and 0 < dot.y < 100 for dot in dots)


def test_every_big_cluster_has_its_turn():
    sizes, parents = np.array([9, 8, 7, 1, 2, 3]), np.array([0, 0, 0, 1, 1, 2])
    assert charts.typical(sizes, parents, 3).tolist() == [0, 5, 4]
    assert charts.typical(sizes, parents, 9).tolist() == [0, 5, 4, 1, 3, 2]


def test_centers_as_images():
    model = fitted(np.array([[0.0, 1, 2, 3], [3, 3, 3, 3], [0, 0, 0, 0]]), 3)
    page = read(model, (2, 2))
    check(page)
    assert len(page.all("img")) == 3
    assert not page.all("polyline")
    pixels = charts.images(np.array([[0.0, 1], [3, 2]]), (1, 2))
    assert [picture.startswith("data:image/png;base64,") for picture in pixels]


@pytest.mark.parametrize("shape", [(3,), (4, 4), (1, 2, 3), (2, 3, 2), (-3, -4)])
def test_a_wrong_shape_is_refused(shape, tmp_path):
    model = fitted(values(), 5)
    with pytest.raises(ValueError, match=r"n_samples = 12 .*was given") as error:
        model.report(tmp_path / "page.html", shape=shape)
    assert str(shape) in str(error.value)
    assert not list(tmp_path.iterdir())


def test_hostile_names_are_text():
    bad = '<script>alert("x")</script><img src=http://x.example/>'
    model = fitted(values(), 5)
    model.set_params(work_dir=bad)
    model.feature_names_in_ = np.array([bad, "b", "c", "d"], object)
    model._origin["input"]["fingerprint"] = bad
    model._seconds[bad] = 1.0
    page = read(model)
    check(page)
    assert page.all("body")[0]["text"].count(bad) == 4


# Advice


def titles(model):
    return [advice.title for advice in advise(model)]


def test_a_balanced_model_needs_no_advice():
    model = fitted(np.arange(100.0).repeat(10)[:, None], 100)
    assert titles(model) == []
    assert "Nothing unusual" in render(model)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_fewer_clusters_than_asked():
    model = fitted(np.arange(10.0).repeat(10)[:, None], 12)
    assert titles(model) == ["10 clusters were found of 12 asked for"]
    assert titles(model)[0] in render(model)


def test_one_big_cluster_with_most_features_and_tiny_clusters():
    far = np.array([[1e3, 0], [0, 1e3], [-1e3, 0], [0, -1e3], [1e3, 1e3]])
    model = fitted(np.concatenate([values(2000, 2), far]), 16)
    found = " | ".join(titles(model))
    assert re.search(r"Big cluster \d \(of \d\) has 100% of the features", found)
    assert re.search(r"Big cluster \d \(of \d\) has 100% of the inertia", found)
    assert re.search(r"\d of 16 clusters have 3 features or fewer", found)


def test_very_unequal_sizes():
    model = three_blobs()
    model.sizes_ = np.array([1000] + [10] * 9)
    model.parents_ = np.arange(10)
    model.cluster_inertia_ = np.ones(10)
    model.coarse_centers_ = np.zeros((10, 12))
    assert titles(model)[-1] == (
        "Cluster sizes are very unequal: the imbalance factor is 8.4"
    )


# Files and the command line


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Save a model as ``model``, and work beside it."""
    monkeypatch.chdir(tmp_path)
    fitted(da.from_array(values(), (100, 12)), 20).to_zarr("model")
    return tmp_path


def test_a_loaded_model_has_the_same_page(saved):
    model = fitted(da.from_array(values(), (100, 12), name="x"), 20)
    model.to_zarr("again")
    loaded = HierarchicalKMeans.from_zarr("again")
    assert render(loaded) == render(model)


def as_an_old_one(path):
    """Take from a saved model what early versions did not save."""
    group = zarr.open_group(path)
    del group["cluster_inertia"]
    for name in ("seconds", "peak_memory"):
        del group.attrs[name]


def test_an_old_model_has_a_page(saved):
    as_an_old_one("model")
    model = HierarchicalKMeans.from_zarr("model")
    assert not hasattr(model, "coarse_inertia_")
    page = read(model)
    check(page)
    text = page.all("main")[0]["text"]
    assert "without the inertia of its clusters" in text
    assert "without the seconds of its phases" in text
    assert advise(model) == []
    if DIAGRAMS:
        assert "not recorded" in model._repr_html_()
    model.to_zarr("saved again")
    again = HierarchicalKMeans.from_zarr("saved again")
    assert render(again) == render(model)


def test_the_command(saved, capsys):
    assert main(["report", "model", "--shape", "2,2,3"]) == 0
    assert capsys.readouterr().out == "report.html\n"
    expected = render(HierarchicalKMeans.from_zarr("model"), (2, 2, 3))
    assert (saved / "report.html").read_text() == expected
    assert main(["report", "model"]) == 2
    assert "report.html is already there" in capsys.readouterr().err
    assert main(["report", "model", "--overwrite"]) == 0
    assert "polyline" in (saved / "report.html").read_text()
    assert sorted(path.name for path in saved.iterdir()) == ["model", "report.html"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("nothing", "nothing is not there"),
        ("model --shape 8x8", "'8x8' is not height,width"),
        ("model --shape 8,8", "shape should be (height, width)"),
        ("model -o model --overwrite", "would replace model"),
    ],
)
def test_the_command_refuses(saved, capsys, options, said):
    assert main(["report", *options.split()]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert [path.name for path in saved.iterdir()] == ["model"]


def test_a_model_must_be_fitted(tmp_path):
    with pytest.raises(sklearn.exceptions.NotFittedError):
        HierarchicalKMeans(3).report(tmp_path / "page.html")


def test_a_report_at_a_url():
    import fsspec

    fitted(values(), 5).report("memory://reports/page.html")
    with fsspec.open("memory://reports/page.html", "r") as file:
        assert file.read().endswith("</html>")


# Jupyter


@pytest.mark.skipif(not DIAGRAMS, reason="scikit-learn shows it since 1.7")
def test_the_diagram_has_a_table_of_the_fit():
    model = HierarchicalKMeans(20)
    assert "Fit of HierarchicalKMeans" not in model._repr_html_()
    model.fit(values())
    shown = model._repr_mimebundle_()["text/html"]
    assert shown == model._repr_html_() or "sk-container-id" in shown
    diagram, table = shown.split("<table style", 1)
    assert "fitted" in diagram
    rows = Page(f"<table style{table}").rows(0)
    assert ["clusters", "20 in 4 big ones"] in rows
    assert ["features", "600 of 12 samples"] in rows
    assert ["reads of X", "2"] in rows


def test_rounding_of_clusters_of_one_feature_is_no_inertia():
    X = np.random.default_rng(0).normal(3, 1, size=(300, 7)).astype(np.float32)
    model = HierarchicalKMeans(290).fit(X)
    alone = np.flatnonzero(model.sizes_ == 1)
    shown = [_cluster(model, number).deviation for number in alone.tolist()]
    assert model.cluster_inertia_[alone].any()
    assert shown == [0.0] * len(alone)


# A real browser

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--enable-logging=stderr --allow-file-access-from-files --window-size=1500,1000 "
    "--virtual-time-budget=3000 --dump-dom "
    "--proxy-server=127.0.0.1:9"  # where nobody answers: nothing leaves this machine
).split()
in_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"
)

FRAME = """<body>
<iframe src="report.html" style="width:{width}px;height:900px"></iframe>
<script>
onload = () => {{
  const page = frames[0].document, root = page.documentElement;
  const wide = [...page.querySelectorAll("main *")].filter(element =>
    !element.closest(".scroll > *, svg > *, .skip") &&
    element.getBoundingClientRect().right > root.clientWidth + 1);
  const ink = selector => {{
    const element = page.querySelector(selector);
    return element && frames[0].getComputedStyle(element).color;
  }};
  document.body.textContent = JSON.stringify({{
    width: frames[0].innerWidth,
    scroll: root.scrollWidth,
    cut: [...page.querySelectorAll(".scroll")].filter(region =>
      region.scrollWidth > region.clientWidth).map(region => region.ariaLabel),
    wide: wide.map(element => element.outerHTML.slice(0, 80)),
    ground: frames[0].getComputedStyle(page.body).backgroundColor,
    inks: ["h1", ".lead", "nav a", "figcaption", ".note", "main p"].map(ink),
    pictures: [...page.images].every(image => image.naturalWidth > 0),
    circle: page.querySelector("circle").getBoundingClientRect().width,
    hue: frames[0].getComputedStyle(page.querySelector("g.hue")).fill,
  }});
}};
</script>"""


def look(folder, name, dark=False):
    """Open a file in Chromium; give its DOM, the console and what pages asked for."""
    log = folder / "net.json"
    ran = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={log}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            (folder / name).as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    console = [line for line in ran.stderr.splitlines() if ":CONSOLE" in line]
    events = [
        event.get("params", {}) for event in json.loads(log.read_text())["events"]
    ]
    # Chromium asks for updates and the time, too, but for no page.
    asked = [
        event["url"]
        for event in events
        if event.get("initiator", "not an origin") != "not an origin"
    ]
    return ran.stdout, console, asked


def brightness(colour):
    """Relative luminance of ``rgb(r, g, b)``, after WCAG 2."""
    levels = np.array([int(n) for n in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(
        levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4
    )
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    dark, light = sorted((brightness(one), brightness(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Write a report with images, of a model that gets advice."""
    folder = tmp_path_factory.mktemp("browser")
    model = fitted(values(3000), 400)
    model.set_params(n_clusters=401)
    model.report(folder / "report.html", shape=(2, 2, 3))
    return folder


@in_chromium
def test_the_browser_tells_what_goes_wrong(tmp_path):
    bad = "<img src='http://other.example/x.png'><script>nothing.there()</script>"
    (tmp_path / "bad.html").write_text(bad)
    _, console, asked = look(tmp_path, "bad.html")
    assert set(asked) == {"http://other.example/x.png"}
    assert any("ReferenceError" in line for line in console)


@in_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1400])
def test_a_browser_is_content(opened, width, dark):
    (opened / "frame.html").write_text(FRAME.format(width=width))
    dom, console, asked = look(opened, "frame.html", dark)
    assert console == []
    assert asked == []
    seen = json.loads(html.unescape(re.search(r"<body>(.*)</body>", dom, re.DOTALL)[1]))
    assert seen["width"] == width
    assert seen["scroll"] <= width
    assert seen["wide"] == []
    assert seen["cut"] == [] or width == 390
    assert (brightness(seen["ground"]) < 0.05) == dark
    assert all(contrast(ink, seen["ground"]) >= 4.5 for ink in seen["inks"])
    assert seen["pictures"]
    assert seen["circle"] > 1
    assert seen["hue"].startswith("oklch(")

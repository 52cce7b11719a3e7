"""What is read by ranges is the object; what is expected is asked for once."""

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hkmeans_dask.remote import ranges
from hkmeans_dask.remote.ranges import RangedFile, expect, together
from tests.strategies import quick


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Let a window be four ranges of 16 bytes."""
    monkeypatch.setattr(ranges, "RANGE_BYTES", 16)
    monkeypatch.setattr(ranges, "WINDOW_BYTES", 64)
    monkeypatch.setattr(ranges, "END_BYTES", 8)


def opened(content):
    """Open it, and give what will have been asked for: ranges, or None for its size."""
    asked = []

    def fetch(spans):
        asked.extend(spans)
        return [content[start:stop] for start, stop in spans]

    def size():
        asked.append(None)
        return len(content)

    return RangedFile(fetch, size), asked


positions = st.integers(0, 250)
steps = st.one_of(
    st.tuples(st.just("seek"), positions),
    st.tuples(st.just("end"), st.integers(0, 20)),
    st.tuples(st.just("read"), positions),
    st.tuples(st.just("expect"), positions),
)


@quick
@given(st.binary(max_size=200), st.lists(steps, max_size=12))
def test_it_reads_as_any_file(content, wanted):
    file, asked = opened(content)
    like = io.BytesIO(content)
    for kind, number in wanted:
        if kind == "expect":
            expect(file, number)
        elif kind == "read":
            assert file.read(number) == like.read(number)
        elif kind == "end" and number <= len(content):
            there = (-number, os.SEEK_END)
            assert file.seek(*there) == like.seek(*there)
        elif kind == "seek":
            file.seek(number)
            like.seek(number)
        assert file.tell() == like.tell()
    spans = [span for span in asked if span]
    assert all(0 < stop - start <= 16 for start, stop in spans)


@pytest.mark.parametrize("n_bytes", [0, 1, 15, 16, 17, 200])
def test_all_of_an_object(n_bytes):
    content = os.urandom(n_bytes)
    file, asked = opened(content)
    file.seek(0, os.SEEK_END)
    file.seek(0)
    expect(file, n_bytes)
    assert file.read() == content
    if n_bytes < 16:
        assert asked == [(0, 16)]


def test_what_is_expected_is_fetched_once_and_no_more():
    content = os.urandom(1000)
    file, asked = opened(content)
    file.seek(100)
    expect(file, 300)
    assert asked == []
    assert [file.read(50) for _ in range(4)] == [
        content[start : start + 50] for start in range(100, 300, 50)
    ]
    assert [start for start, _ in asked] == [*range(100, 300, 16)]
    assert asked[-1][1] == 300
    assert file.read(10) == content[300:310]
    assert asked[-1] == (300, 310)


def test_a_local_file_needs_not_know(tmp_path):
    (tmp_path / "file").write_bytes(b"some")
    with (tmp_path / "file").open("rb") as file:
        expect(file, 4)
        assert file.read() == b"some"


@pytest.mark.parametrize("most", [1, 3])
def test_results_are_in_order(most):
    assert together(abs, iter([-3, -2, -1, 0]), most) == [3, 2, 1, 0]
    assert together(abs, [], most) == []

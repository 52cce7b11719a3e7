"""Checksums of files of rows: of either kind, whoever wrote them and whoever reads."""

import numpy as np
import pytest

from hkmeans_dask.workspace import checksums
from hkmeans_dask.workspace.checksums import CASTAGNOLI, checksum, fits
from hkmeans_dask.workspace.files import Damaged, OnDisk
from hkmeans_dask.workspace.rows import RAW, Rows

KINDS = [False, checksums.COMPILED]
NINE = np.frombuffer(b"123456789", np.uint8)


@pytest.mark.parametrize("compiled", KINDS)
def test_they_are_those_of_the_standards(monkeypatch, compiled):
    monkeypatch.setattr(checksums, "COMPILED", compiled)
    assert checksum(NINE) == (CASTAGNOLI + 0xE3069283 if compiled else 0xCBF43926)
    assert fits(NINE, CASTAGNOLI + 0xE3069283)
    assert fits(NINE, 0xCBF43926)
    assert not fits(NINE, 0xE3069283)
    assert not fits(NINE, CASTAGNOLI + 0xCBF43926)


@pytest.mark.parametrize("compiled", KINDS)
def test_all_bytes_count_whatever_the_shape_and_dtype(monkeypatch, compiled):
    monkeypatch.setattr(checksums, "COMPILED", compiled)
    values = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    number = checksum(np.frombuffer(values.tobytes(), np.uint8))
    assert checksum(values) == number
    values[-1, -1] = -values[-1, -1]
    assert not fits(values, number)


def stored(folder, monkeypatch, *, compiled):
    """Rows in a file of a process that has, or has not, compiled CRC-32C."""
    monkeypatch.setattr(checksums, "COMPILED", compiled)
    array = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    keys = np.arange(40, dtype=np.uint64)
    rows = Rows(array, np.arange(40)[::-1], keys, np.array([0, 15, 40]), 7)
    OnDisk(folder).save_rows("some", rows)
    return rows


@pytest.mark.parametrize("reads", KINDS)
@pytest.mark.parametrize("writes", KINDS)
def test_rows_are_read_by_processes_unlike_the_writer(
    tmp_path, monkeypatch, writes, reads
):
    rows = stored(tmp_path, monkeypatch, compiled=writes)
    found = OnDisk(tmp_path).find_rows("some")
    assert ((found.checksums >= CASTAGNOLI) == writes).all()
    monkeypatch.setattr(checksums, "COMPILED", reads)
    assert np.array_equal(found.load().array, rows.array[::-1])
    assert np.array_equal(found.take(1, 2**64 - 1), rows.take(1, 2**64 - 1))


@pytest.mark.parametrize("compiled", KINDS)
@pytest.mark.parametrize("byte", [3, -2])
def test_an_altered_byte_is_noticed(tmp_path, monkeypatch, compiled, byte):
    stored(tmp_path, monkeypatch, compiled=compiled)
    content = bytearray((tmp_path / f"some{RAW}").read_bytes())
    content[byte] ^= 1
    (tmp_path / f"some{RAW}").write_bytes(content)
    with pytest.raises(Damaged, match="wrong checksum"):
        OnDisk(tmp_path).find_rows("some").load()

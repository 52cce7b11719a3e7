"""Checksums of bytes, by instructions of the processor where they may be used.

Compiled, CRC-32C takes a sixth of the time of zlib's CRC-32; where google-crc32c has no
compiled part, a thousand times as long. So who writes chooses, and the number tells.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array


CASTAGNOLI = 2**32
"""Added to CRC-32C, to tell it from CRC-32."""


def _is_compiled() -> bool:
    """Whether CRC-32C is quick, and of arrays without a copy."""
    some: Any = np.frombuffer(b"123456789", np.uint8)
    with suppress(TypeError):
        is_right: bool = google_crc32c.value(some) == 0xE3069283
        return is_right and google_crc32c.implementation == "c"
    return False


COMPILED = _is_compiled()
"""Whether CRC-32C is what new files have."""


def checksum(values: Array) -> int:
    """CRC-32C of a contiguous array's bytes, plus `CASTAGNOLI`; or their CRC-32."""
    content = _content(values)
    return _castagnoli(content) if COMPILED else zlib.crc32(content)


def fits(values: Array, number: int) -> bool:
    """Whether a contiguous array has this checksum, of the kind that it is."""
    content = _content(values)
    castagnoli = number >= CASTAGNOLI
    return number == (_castagnoli(content) if castagnoli else zlib.crc32(content))


def _content(values: Array) -> Any:
    return values.reshape(-1).view(np.uint8)


def _castagnoli(content: Any) -> int:
    found: int = google_crc32c.value(content if COMPILED else content.tobytes())
    return CASTAGNOLI + found

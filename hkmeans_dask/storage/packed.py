"""Packed values: what xarray and netCDF tools store stands for other values, or none.

Attributes say so: stored values are multiplied by ``scale_factor``, then ``add_offset``
is added; those equal to ``_FillValue`` or a ``missing_value`` are missing; integers
with ``_Unsigned`` are of the other kind. Here this is done as xarray does it, block by
block, and what is missing becomes NaN. In Zarr format 2 xarray takes the fill value of
an array that it wrote for its ``_FillValue``.
"""

from __future__ import annotations

import base64
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hkmeans_dask.storage.urls import url_of

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array

LINEAR = ("scale_factor", "add_offset")
FILLS = ("_FillValue", "missing_value")

BY_XARRAY = ("_ARRAY_DIMENSIONS", "_NCZARR_ARRAY", "_nczarr_array")
"""Attributes, one of which arrays of format 2 have if xarray opens them."""

STORED_NAN = "AAAAAAAA+H8="
"""How xarray writes NaN as a `_FillValue`, as it does for all floats."""


AS_GIVEN = tuple(
    "original- from-zarr- array- astype- getitem blocks- vindex- rechunk- reshape- "
    "transpose- concatenate- stack-".split()
)
"""How names of layers of dask begin whose values are those that they are given."""


@dataclass(frozen=True)
class Packing:
    """What the stored values of an array mean."""

    stored: np.dtype[Any]
    """Of stored values; of other integers than the array's by `_Unsigned`."""

    dtype: np.dtype[Any]
    """Of what they mean."""

    fills: tuple[float, ...]
    """Stored values that mean NaN."""

    scale: float | None
    offset: float | None

    @classmethod
    def of(cls, array: Any) -> Packing | None:
        """Take what a zarr.Array tells; None if its values are what they are.

        Raises
        ------
        ValueError
            If an attribute is no number.
        """
        told = told_by(array)
        if not told:
            return None
        numbers = {
            name: _numbers(array, name, told.get(name, [])) for name in LINEAR + FILLS
        }
        stored = _by_sign(array.dtype, told.get("_Unsigned"))
        missing = [value for name in FILLS for value in numbers[name]]
        fills = {_as_stored(value, stored) for value in missing if value == value}
        scale, offset = (next(iter(numbers[name]), None) for name in LINEAR)
        linear = scale is not None or offset is not None
        dtype = _decoded_dtype(stored, linear, bool(fills))
        return cls(stored, dtype, tuple(sorted(fills)), scale, offset)

    def decode(self, values: Any) -> Array:
        """Give what stored values mean."""
        decoded = np.array(np.asarray(values).astype(self.stored), self.dtype)
        for fill in self._fills_decoded():
            decoded[decoded == fill] = np.nan
        if self.scale is not None:
            decoded *= self.scale
        if self.offset is not None:
            decoded += self.offset
        return decoded

    def _fills_decoded(self) -> Array:
        """Fill values in the dtype in which values are compared with them."""
        with np.errstate(over="ignore"):
            return np.array(self.fills, self.dtype)

    def __str__(self) -> str:
        """Say how values are decoded."""
        times = "" if self.scale is None else f" * {self.scale:g}"
        plus = "" if self.offset is None else f" + {self.offset:g}"
        said = f"stored values{times}{plus} as {self.dtype}"
        return f"{said}, {self.missing} is NaN" if self.fills else said

    @property
    def missing(self) -> str:
        """Stored values that mean NaN, in words."""
        return " or ".join(f"{fill:g}" for fill in self.fills)


class Decoded:
    """A Zarr array of packed values that is read as what these mean."""

    def __init__(self, stored: Any, packing: Packing) -> None:
        self.stored, self.packing = stored, packing
        self.shape, self.ndim, self.dtype = stored.shape, stored.ndim, packing.dtype


def decoded(array: Any) -> Any:
    """Let a zarr.Array be read as what its values mean, if they are packed."""
    packing = Packing.of(array)
    return array if packing is None else Decoded(array, packing)


def stored(array: Any) -> Any:
    """Give the zarr.Array that is read."""
    return array.stored if isinstance(array, Decoded) else array


def packing_of(array: Any) -> Packing | None:
    """Tell how the values that are read are decoded, if they are."""
    return array.packing if isinstance(array, Decoded) else None


def told_by(array: Any) -> dict[str, Any]:
    """Give the attributes of a zarr.Array by which its values are not what they are."""
    if array.dtype.kind not in "iuf":
        return {}
    known = {name: array.attrs.get(name) for name in (*LINEAR, *FILLS)}
    by_xarray = any(name in array.attrs for name in BY_XARRAY)
    if known["_FillValue"] is None and array.metadata.zarr_format == 2 and by_xarray:
        known["_FillValue"] = np.asarray(array.fill_value).item()
    told = {name: value for name, value in known.items() if not _is_nothing(value)}
    sign = array.attrs.get("_Unsigned")
    if _by_sign(array.dtype, sign) != array.dtype:
        told["_Unsigned"] = sign
    return told


def warn_of_packed(array: Any) -> None:
    """Warn of values that stand for others or for none, which only xarray decodes."""
    said = [f"{name}={value!r}" for name, value in told_by(array).items()]
    if said:
        warnings.warn(
            f"{url_of(array)} holds packed values ({', '.join(said)}), which are "
            "taken as they are stored. Decode them first: "
            "xarray.open_zarr(...)[name], or X * scale_factor + add_offset where X is "
            "not _FillValue.",
            stacklevel=7,  # the caller of `fit`
        )


def warn_of_packed_in(graph: Any) -> None:
    """Warn of packed values that a graph of dask gives as they are stored."""
    zarr, layers = sys.modules.get("zarr"), getattr(graph, "layers", {})
    if zarr is None or not all(str(name).startswith(AS_GIVEN) for name in layers):
        return
    for name, layer in layers.items():
        inline = [given for given, _ in getattr(layer, "indices", ())]
        nodes = layer.values() if name.startswith("original-") else inline
        for array in (getattr(node, "value", node) for node in nodes):
            if isinstance(array, zarr.Array):
                warn_of_packed(array)


def _is_nothing(value: Any) -> bool:
    """Whether an attribute is not there, or NaN, which means itself."""
    return value is None or value in (STORED_NAN, "NaN") or bool(value != value)


def _numbers(array: Any, name: str, value: Any) -> list[float]:
    """Take an attribute as numbers; xarray writes those of floats in base64."""
    try:
        return [_number(one) for one in np.ravel(value)]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{url_of(array)} has packed values with {name}={value!r}, which is no "
            "number. Mend or remove this attribute."
        ) from error


def _number(value: Any) -> float:
    if isinstance(value, str) and value.endswith("="):
        (value,) = np.frombuffer(base64.standard_b64decode(value), "<f8")
    return float(value)


def _by_sign(dtype: np.dtype[Any], unsigned: Any) -> np.dtype[Any]:
    """Dtype of integers by the attribute `_Unsigned`."""
    other = {("i", "true"): "u", ("u", "false"): "i"}
    kind = other.get((dtype.kind, str(unsigned).lower()))
    return np.dtype(f"{kind}{dtype.itemsize}") if kind else dtype


def _as_stored(fill: float, stored: np.dtype[Any]) -> float:
    """Give a fill value as the stored dtype has it: -1 is 255 of one unsigned byte."""
    if stored.kind == "f" or not fill.is_integer():
        return fill
    bits = np.array(int(fill) % 2 ** (8 * stored.itemsize), f"u{stored.itemsize}")
    return float(bits.astype(stored))


def _decoded_dtype(stored: np.dtype[Any], linear: bool, masked: bool) -> np.dtype[Any]:
    """Choose as xarray: float32 where it holds all, but after arithmetic float64."""
    if linear:
        return np.dtype(np.float64)
    if stored.kind == "f" or not masked:
        return stored.newbyteorder("=")
    return np.dtype(np.float32 if stored.itemsize <= 2 else np.float64)

"""What the memory and the tasks of a fit hang on."""

from __future__ import annotations

from dataclasses import dataclass

from hkmeans_dask.kmeans.sampling import count_parts, range_rows

LABEL = 8
"""Bytes of a label while it is computed."""


@dataclass(frozen=True)
class Sizes:
    """What a fit's memory hangs on."""

    n_features: int
    n_samples: int
    n_clusters: int

    n_rows: int
    """Training rows."""

    n_big: int
    itemsize: int
    """Of the arithmetic."""

    block_rows: int
    """Features of the largest block."""

    block_bytes: int
    """Of that block, in the dtype of X."""

    read_bytes: int
    """More bytes that reading such a block takes for a moment; 0 for X in memory."""

    cast: int
    """Copies of a block: one in the dtype of the arithmetic, one at unit length."""

    copied: bool
    """Whether training rows are copied; they are not where X is in this process."""

    copy_bytes: int = 0
    """What copying a block of X takes, where X is copied into whole features first."""

    refine: int = 0
    """Passes that refine, at most."""

    beyond: bool = False
    """Whether training rows look beyond their big cluster."""

    all_compared: bool = False
    """Whether features are compared with all small clusters, if these are few."""

    here: bool = False
    """Whether tasks run in the process that has the training rows, if these are not in
    files."""

    balance: float = 0.0
    """How even sizes are made; prices are learned where it is not 0."""

    evens: bool = False
    """Whether prices are learned among all small clusters."""

    batch_size: int = 1000
    n_init: int = 10

    n_trainable: int = 0
    """Features with a weight above 0; 0 where features have no weights."""

    exclude: bool = False
    """Whether features that cannot be clustered are left out."""

    @property
    def row(self) -> int:
        """Bytes of one feature in the arithmetic."""
        return self.n_samples * self.itemsize

    @property
    def weighted(self) -> bool:
        """Whether features have weights."""
        return self.n_trainable > 0

    @property
    def kept_row(self) -> int:
        """Bytes of one training row: a feature, and its weight."""
        return self.row + self.itemsize * self.weighted

    @property
    def rows(self) -> int:
        """Bytes of the training rows that have to be copied."""
        return self.n_rows * self.kept_row if self.copied else 0

    @property
    def by_range(self) -> bool:
        """Whether ranges of X are read one by one, as ranks are among good features."""
        n_features = self.n_trainable or self.n_features
        return self.exclude and self.copied and self.n_rows < n_features

    @property
    def range_rows(self) -> int:
        """Rows that such a range may keep."""
        return min(range_rows(self.n_rows, self.kept_row), self.n_features)

    @property
    def held(self) -> int:
        """Bytes of the training rows in memory, and of those that may become some."""
        more = max(self.n_rows, self.range_rows) * self.kept_row
        return self.rows + more * self.by_range

    @property
    def n_parts(self) -> int:
        """Parts of the training rows."""
        n_features = self.n_trainable or self.n_features
        return count_parts(n_features, self.n_rows * self.kept_row)

    @property
    def part_rows(self) -> int:
        """Training rows of one part."""
        return -(-self.n_rows // self.n_parts)

    @property
    def block_weights(self) -> int:
        """Bytes of the weights of a block, and of distances times weights."""
        return 2 * LABEL * self.block_rows * self.weighted

"""Where the training rows and labels of a fit are: in memory, or in files.

Without a `work_dir`, what is too large for one process goes to files of a temporary
folder, if all who compute see that folder. Workers that do not have the rows in their
memory together; labels come to the client.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from hkmeans_dask.planning import memory
from hkmeans_dask.planning.job import check_memory
from hkmeans_dask.remote.patience import is_remote
from hkmeans_dask.runtime.limits import available_memory
from hkmeans_dask.workspace.places import is_shared, labels_go_to_disk

if TYPE_CHECKING:
    from hkmeans_dask.planning.job import Job
    from hkmeans_dask.planning.memory import Projection
    from hkmeans_dask.planning.sizes import Sizes
    from hkmeans_dask.runtime.execution import Runner

CLIENT_LABEL = 16
"""Bytes of a label where those of a lazy X come to the client, at most."""

APART = "do not share the client's temporary folder"
SHARE = "pass a work_dir that client and workers share, a folder or a URL of a bucket"


class Where(NamedTuple):
    """Where a fit has its intermediate results, and what its tasks then take."""

    rows_on_disk: bool
    """Training rows, and a copy of X; else they are in memory."""

    labels_on_disk: bool
    projected: Projection
    folder: str = ""
    """That files would be in."""

    n_apart: int = 0
    """Workers that do not see that folder, but would have to."""

    n_sharing: int = 0
    """Workers that have the training rows in their memory together; 0 if one of them,
    or this process, may have them all."""

    @property
    def of_rows(self) -> str:
        """Tell where training rows are, and why."""
        if self.n_sharing:
            each = f"up to {self.projected.held / 1e6:.0f} MB each"
            return f"in the memory of {self.n_sharing} workers, {each}; they {APART}"
        return f"in files of {self.folder}" if self.rows_on_disk else "in memory"

    @property
    def of_labels(self) -> str:
        """Tell where labels are, and why."""
        if self.labels_on_disk:
            return f"in files of {self.folder}"
        return f"in memory; workers {APART}" if self.n_apart else "in memory"


def choose(job: Job, sizes: Sizes, work_dir: Any) -> Where:
    """Choose where rows and labels are, by the memory and folders of who computes.

    Asks the workers that are there, if that matters, what they see.
    """
    durable = work_dir is not None
    rows = _rows_go_to_disk(job, sizes, durable=durable)
    many = labels_go_to_disk(sizes.n_features, sizes.n_clusters)
    labels = durable or (many and not job.features.in_memory)
    remote = is_remote(os.fsdecode(work_dir or ""))
    projected = memory.project(sizes, on_disk=rows, remote=remote)
    folder = "work_dir" if durable else "a temporary folder"
    found = Where(rows, labels, projected, folder)
    n_workers = len(job.runner.workers())
    if durable or not (rows or labels) or not n_workers or is_shared(job.runner):
        return found
    if sizes.copy_bytes or not rows:
        return found._replace(labels_on_disk=False, n_apart=n_workers)
    projected = memory.project(sizes, on_disk=False, n_sharing=n_workers)
    remedy = (
        f"{n_workers} workers that {APART} have {sizes.rows >> 20} MiB of training "
        f"rows, twice, in their memory: take more of them, or {SHARE}"
    )
    projected = projected._replace(remedy=remedy)
    return Where(False, False, projected, folder, n_workers, n_workers)


def check_where(job: Job, sizes: Sizes, where: Where) -> None:
    """Refuse a fit for which there is no place.

    Raises
    ------
    MemoryError, FileNotFoundError
    """
    if where.n_apart and sizes.copy_bytes:
        raise FileNotFoundError(
            "X is chunked along samples, and a fit would copy it to files first, but "
            f"{where.n_apart} workers {APART}. Rechunk X to whole features, or {SHARE}."
        )
    if where.n_apart and not where.labels_on_disk:
        n_bytes, free = CLIENT_LABEL * sizes.n_features, available_memory()
        if n_bytes > free:
            raise MemoryError(
                f"{sizes.n_features} labels take up to {n_bytes >> 20} MiB in this "
                f"process, which can get {free >> 20} MiB, as workers {APART}. To have "
                f"them in files, {SHARE}."
            )
    check_memory(job.runner, where.projected)


def _rows_go_to_disk(job: Job, sizes: Sizes, *, durable: bool) -> bool:
    """Choose whether training rows are in files, if all who compute see these."""
    if durable or sizes.copy_bytes or not sizes.rows:
        return durable or sizes.copy_bytes > 0
    if not job.runner.client:
        return bool(sizes.rows > available_memory() // 4)
    in_memory = memory.project(sizes, on_disk=False)
    return sizes.rows > memory.CLUSTER_ROWS or not _fits(job.runner, in_memory)


def _fits(runner: Runner, projected: Projection) -> bool:
    """Whether each worker can hold what it may have to."""
    return all(
        projected.peak(n_threads) <= memory.usable(limit)
        for limit, n_threads in runner.workers()
        if limit
    )

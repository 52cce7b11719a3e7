"""What a fit will read, write, hold and run, told before it computes anything.

Everything follows from shapes, chunks and parameters; see `memory` for the peaks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from hkmeans_dask.kmeans import minibatch
from hkmeans_dask.kmeans.sampling import count_parts
from hkmeans_dask.kmeans.sums import FAN_IN
from hkmeans_dask.planning.job import sizes_of, whole_chunks
from hkmeans_dask.planning.reducing import project_transform
from hkmeans_dask.planning.where import choose
from hkmeans_dask.stages.beyond import MOST_PASSES
from hkmeans_dask.stages.label import group_blocks
from hkmeans_dask.stages.partition import COUNTED_TOGETHER
from hkmeans_dask.workspace.rows import PARTITION_BYTES
from hkmeans_dask.workspace.spread import most_bundles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hkmeans_dask.inputs.arrays import Features
    from hkmeans_dask.planning.job import Job
    from hkmeans_dask.planning.sizes import Sizes


@dataclass(frozen=True, repr=False)
class Plan:
    """What a fit takes; a table in a terminal and in Jupyter."""

    n_passes: int
    """Passes over the data, at most: reads of X, or one to copy it and others of the
    copy."""

    read_bytes: int
    """Bytes of X that are read in all: as stored, of a Zarr array."""

    workspace_bytes: int
    """Bytes written to the workspace in all, which bounds what is on disk at once: a
    part of the training rows is removed when it is sorted. 0 where it is in memory."""

    output_bytes: int
    """Bytes of the fitted model, before compression."""

    tasks: dict[str, int]
    """Tasks of each stage, at most: passes that refine may end early. Where features
    repeat a few more count the distinct ones, where most are left out a few more
    draw the training rows."""

    peaks: dict[str, int]
    """Projected peak of one task of each stage, in bytes above an idle process."""

    rows_place: str
    """Where training rows are, and why where workers have them together."""

    labels_place: str
    """Where labels are."""

    held_bytes: int
    """Training rows that stay in the memory of a process besides, at most: one worker
    may hold all of them, or together they have them twice, each its share."""

    process_bytes: int
    """Projected peak of a worker (one thread), or of this process where no cluster
    computes (`n_threads`), in bytes above an idle one."""

    n_threads: int
    """Tasks that run in that process at once."""

    worker_limit: int
    """The least memory limit of a one-thread worker with which a fit is not refused."""

    transform_bytes: int
    """Projected peak of such a process in `transform` of the same X."""

    transform_limit: int
    """The least memory limit of a one-thread worker with which that is not refused."""

    flops: int
    """Floating-point operations of products, with big clusters of one size and at most
    100 passes over the training rows of each."""

    flops_at_most: int
    """The same where one big cluster has all features."""

    def rows(self) -> Iterator[tuple[str, str]]:
        """Give the lines of the table: a name and a text."""
        yield "passes over the data", str(self.n_passes)
        yield "bytes read of X", size(self.read_bytes)
        yield "disk for the workspace", size(self.workspace_bytes)
        yield "bytes of the model", size(self.output_bytes)
        for stage in self.tasks:
            peak = size(self.peaks[stage])
            yield f"tasks, {stage}", f"{self.tasks[stage]}, up to {peak} each"
        yield "training rows", self.rows_place
        yield "labels", self.labels_place
        yield "training rows in memory", size(self.held_bytes)
        threads = f"{self.n_threads} thread(s), above an idle one"
        yield "peak of a process", f"{size(self.process_bytes)} ({threads})"
        yield "memory limit of a worker", f"at least {size(self.worker_limit)}"
        takes = f"{size(self.transform_bytes)}, at least {size(self.transform_limit)}"
        yield "the same of a transform", takes
        yield "operations, even clusters", f"up to {self.flops:.2g}"
        yield "operations, one has all", f"up to {self.flops_at_most:.2g}"

    def __repr__(self) -> str:
        """Write the table as text."""
        return "\n".join(f"{name:<26}{text}" for name, text in self.rows())

    def _repr_html_(self) -> str:
        lines = (
            f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
            f'<td style="text-align:left">{escape(text)}</td></tr>'
            for name, text in self.rows()
        )
        return f"<table><caption>Plan of a fit</caption>{''.join(lines)}</table>"


def size(n_bytes: int) -> str:
    """Write bytes as people do: 1.5 GB."""
    value, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return (
        f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
    )


def plan_fit(job: Job, as_chunked: Features, stored_bytes: int, work_dir: Any) -> Plan:
    """Plan a fit, and what a transform of the same X takes.

    Parameters
    ----------
    job : Job
    as_chunked : Features
        X as a transform reads it.
    stored_bytes : int
        What one read of X reads.
    work_dir : path-like or None
    """
    features, sizes = job.features, sizes_of(job)
    chunks = whole_chunks(features)
    where = choose(job, sizes, work_dir)
    written = _rows_written(sizes) if where.rows_on_disk else 0
    files = (where.rows_on_disk, where.labels_on_disk)
    labels = _labels_written(sizes, chunks) if files[1] else 0
    copied = 0 if features.whole else features.blocks.nbytes
    projected = where.projected
    n_threads = 1 if job.runner.client else job.runner.n_threads
    n_workers = len(job.runner.workers())
    transform = project_transform(as_chunked, job.n_clusters, n_workers)
    n_reads = 2 + sizes.refine
    tasks = _tasks(sizes, chunks, job.allocation == "inertia", files)
    if where.n_sharing:
        more = _tasks_of_sharing(sizes, given=job.init is not None)
        tasks = {stage: n + more.get(stage, 0) for stage, n in tasks.items()}
    if copied:
        tasks = {"copy": features.blocks.npartitions, **tasks}
    return Plan(
        n_passes=n_reads if features.whole else 1 + n_reads,
        read_bytes=(n_reads if features.whole else 1) * stored_bytes,
        workspace_bytes=int(written + labels + copied),
        output_bytes=_model(sizes) + 4 * sizes.n_features,
        tasks=tasks,
        peaks=projected.tasks,
        rows_place=where.of_rows,
        labels_place=where.of_labels,
        held_bytes=projected.held,
        process_bytes=projected.peak(n_threads),
        n_threads=n_threads,
        worker_limit=projected.least_limit(),
        transform_bytes=transform.peak(n_threads),
        transform_limit=transform.least_limit(),
        flops=_flops(sizes, -(-sizes.n_clusters // sizes.n_big)),
        flops_at_most=_flops(sizes, sizes.n_clusters),
    )


def _tasks(
    sizes: Sizes, chunks: tuple[int, ...], by_inertia: bool, files: tuple[bool, bool]
) -> dict[str, int]:
    """Tasks of each stage; whether the model is in a file, and whether labels are."""
    n_parts = sizes.n_parts
    n_groups = len(group_blocks(chunks)[1]) - 1
    counts = -(-sizes.n_big // COUNTED_TOGETHER)
    tasks = {
        "sample": len(chunks) + n_parts + 1 + _tasks_of_ranges(sizes),  # the check
        "coarse": 1,
        # All parts; totals; what varies within each.
        "partition": n_parts + 2 + counts + n_parts * by_inertia,
        "fine": sizes.n_big + 3,  # all parts, the axes, the model
    }
    if sizes.evens:
        tasks["even"] = n_parts + 2
    if sizes.beyond:
        each = n_parts + _merges(n_parts) + 2 + files[0]
        tasks["rows"] = 3 + n_parts + MOST_PASSES * each  # coordinates first
    if sizes.refine:
        merges = _merges(len(chunks))
        tasks["refine"] = 2 + sizes.refine * (len(chunks) + merges + 2 + files[0])
    # The model read from its file; its checksum, and what adds up the files of labels.
    return tasks | {"label": len(chunks) + n_groups + files[0] + 2 * files[1]}


def _tasks_of_sharing(sizes: Sizes, *, given: bool) -> dict[str, int]:
    """Count what is asked of each part where no task gets all of them, at most.

    What is told of a part in the stages that ask for that; sketches, limits and cuts;
    lists of what was cut.
    """
    n_parts, n_bytes = sizes.n_parts, sizes.n_rows * sizes.kept_row
    n_bundles = most_bundles(sizes.n_big, n_bytes)
    n_large = n_bytes // PARTITION_BYTES
    cut = n_bundles * (n_parts + 1) + n_large * (n_parts + 1)
    return {
        "sample": n_parts,
        "coarse": 3 * n_parts + 1,
        "partition": n_parts + cut + n_bundles,
        "rows": n_parts + n_bundles,
        "refine": n_parts * given,
    }


def _tasks_of_ranges(sizes: Sizes) -> int:
    """Count the tasks that leaving features out takes.

    Those that count rows; and where ranges are read one by one, those that join runs,
    look at their keys, and let go of rows, each time of all runs.
    """
    if not sizes.by_range:
        return sizes.n_parts * sizes.exclude
    n_runs = count_parts(sizes.range_rows, sizes.range_rows * sizes.kept_row)
    n_ranges = _n_ranges(sizes)
    return sizes.n_parts + n_runs * (2 * n_ranges + n_ranges * (n_ranges + 1) // 2)


def _n_ranges(sizes: Sizes) -> int:
    """Ranges of X that are read one by one, where few features are left out."""
    grows = 1 + sizes.range_rows / sizes.n_rows
    length = max(1.0, sizes.n_features / sizes.range_rows)
    return 1 + math.ceil(math.log(length, grows))


def _merges(n_blocks: int) -> int:
    """Tasks of a tree that adds up blocks."""
    level = -(-n_blocks // FAN_IN)
    return level if level == 1 else level + _merges(level)


def _model(sizes: Sizes) -> int:
    centers = (sizes.n_clusters + sizes.n_big + 1) * sizes.row
    return centers + 2 * 8 * sizes.n_clusters


def _rows_written(sizes: Sizes) -> int:
    """Training rows with their keys, twice; the centers, three times.

    Of ranges of X all rows that may have become such.
    """
    rows = sizes.n_rows * (sizes.row + 8) if sizes.copied else 0
    runs = min(_n_ranges(sizes) * sizes.range_rows, sizes.n_features)
    coarse = (sizes.n_big + 1) * sizes.row
    fine = sizes.n_clusters * sizes.row
    more = runs * (sizes.row + 8) * sizes.by_range
    return 2 * rows + more + 2 * coarse + 2 * fine


def _labels_written(sizes: Sizes, chunks: tuple[int, ...]) -> int:
    n_groups = len(group_blocks(chunks)[1]) - 1
    return 4 * sizes.n_features + 8 * (sizes.n_clusters * n_groups + len(chunks))


def _flops(sizes: Sizes, share: int) -> int:
    """Two operations per center, sample and row that is compared with it."""
    trained = minibatch.MAX_PASSES * sizes.n_rows * (sizes.n_big + share)
    if sizes.beyond:
        share = sizes.n_clusters
        trained += MOST_PASSES * sizes.n_rows * (sizes.n_big + share)
    labelled = sizes.n_features * (sizes.n_big + share) * (1 + sizes.refine)
    return 2 * sizes.n_samples * (labelled + trained)

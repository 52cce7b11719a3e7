"""Run the methods of a benchmark in turn, each in a fresh process."""

from __future__ import annotations

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from tests.benchmarks.job import OURS, Job
from tests.benchmarks.measure import Round, Run, measure, save_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.benchmarks.catalogue import Benchmark


@contextmanager
def written(benchmark: Benchmark, folder: Path) -> Iterator[Path]:
    """Write the data, unless they are there; remove them again if they are huge."""
    path = folder / benchmark.data.file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix="write-") as unfinished:
            new = Path(unfinished, path.name)
            benchmark.data.write(new)
            new.rename(path)
    try:
        yield path
    finally:
        if not benchmark.data.keep:
            shutil.rmtree(path)


def run(
    benchmark: Benchmark,
    methods: Sequence[str],
    rounds: Sequence[Round],
    path: Path,
    *,
    fresh: bool = True,
) -> Iterator[Run]:
    """Yield one run per round and method, the methods alternating.

    A peer that fails is left out from there on; ours may not.

    Parameters
    ----------
    benchmark : Benchmark
    methods : sequence of str
    rounds : sequence of Round
    path : Path
        Of the data.
    fresh : bool, default=True
        Whether each run gets a process of its own. In this process peaks of memory
        are those of all that ran before.
    """
    with TemporaryDirectory(dir=path.parent, prefix="model-") as folder:
        model = Path(folder, "model")
        if benchmark.model_part:
            X = benchmark.data.open(path)
            job = Job(X, benchmark.n_clusters, 0, model, model)
            save_model(job, benchmark.model_part)
        able = list(methods)
        for where in rounds:
            for method in list(able):
                once = partial(measure, benchmark, method, where, path, model)
                try:
                    done = _in_fresh_process(once) if fresh else once()
                except Exception as error:
                    if method == OURS:
                        raise
                    click.echo(f"{method} failed and is left out: {error}", err=True)
                    able.remove(method)
                else:
                    yield done


def _in_fresh_process(once: Callable[[], Run]) -> Run:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(once).result()

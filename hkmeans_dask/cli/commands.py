"""Zarr-to-Zarr commands.

Every command checks what it can before it starts workers or reads data, and writes
outputs that appear only when they are complete. Whatever is wrong with the input gets
one line on stderr and exit code 2. dask, scikit-learn and zarr take seconds to import,
so commands import what they need, the largest part while workers start; ``--help``
waits for none of them.
"""

from __future__ import annotations

import functools
import logging
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hkmeans_dask import __version__
from hkmeans_dask.cli.alone import alone, import_estimator
from hkmeans_dask.cli.applying import labels_of, means_of, values_of, write
from hkmeans_dask.cli.axes import FEATURE
from hkmeans_dask.cli.cluster import Cluster, threads
from hkmeans_dask.cli.inputs import fills_explained, open_values
from hkmeans_dask.cli.messages import PROGRAM, printable, say, say_error, show_warning
from hkmeans_dask.cli.options import (
    debugging,
    every_parameter,
    image_shape,
    job,
    overwriting,
    reading,
    showing,
    weighting,
    writing_arrays,
)
from hkmeans_dask.cli.saving import check_output, save
from hkmeans_dask.cli.signals import Terminated, terminable
from hkmeans_dask.cli.slurm import write_scripts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hkmeans_dask.estimator import HierarchicalKMeans

INTERRUPTED = 130
TERMINATED = 143


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    args : sequence of str, optional
        Those of the process if not given.

    Returns
    -------
    code : int
        0 when the command did its work, 2 for bad input, 1 for a fault of this
        program, 130 when interrupted, 143 when terminated (a batch system's end of the
        walltime).
    """
    # asyncio would log what a client of a cluster was waiting for at Ctrl-C.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    wanted: dict[str, bool] = {}
    own = alone() if args is None else nullcontext()
    with warnings.catch_warnings(), terminable(), own:
        warnings.showwarning = show_warning
        try:
            _check_text(sys.argv[1:] if args is None else args)
            commands(args, prog_name=PROGRAM, standalone_mode=False, obj=wanted)
        except click.Abort:
            say("interrupted", "what was not complete is removed.")
            return INTERRUPTED
        except Terminated:
            say("terminated", "what was not complete is removed.")
            return TERMINATED
        except Exception as error:
            return say_error(error, debug=wanted.get("debug", False))
    return 0


def _check_text(args: Sequence[str]) -> None:
    """Refuse what can be no name of a file, nor anything else."""
    for arg in args:
        if not arg or "\0" in arg:
            raise click.UsageError(
                f"{arg!r} was given, but no argument should be empty or have a null "
                "character."
            )


def _print_table(rows: Iterable[tuple[str, object]]) -> None:
    for name, value in rows:
        _print(f"{name:<26}{value}")


def _print(text: str) -> None:
    click.echo(printable(text))


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name=PROGRAM)
@debugging
@click.pass_context
def commands(context: click.Context) -> None:
    """Hierarchical k-means of the features of Zarr arrays larger than memory.

    INPUT, MODEL, OUTPUT and REDUCED are local paths or fsspec URLs of Zarr stores.
    Outputs appear when they are complete.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@commands.command()
@every_parameter
@weighting("2 counts it twice, 0 leaves it out of training.")
@job(source="INPUT", model_path="MODEL")
def fit(
    source: str,
    model_path: str,
    init: str,
    feature_weight: str | None,
    component: str | None,
    overwrite: bool,
    cluster: Cluster,
    **parameters: Any,
) -> None:
    """Cluster features and save the model."""
    from hkmeans_dask.inputs import checks
    from hkmeans_dask.storage import opening

    cluster.check([source, model_path])
    needed = [source, *([feature_weight] if feature_weight else [])]
    check_output(model_path, overwrite, needed)
    X = open_values(source, component)
    parameters["feature_axis"] = opening.find_axis(X, parameters["feature_axis"])
    parameters["init"] = _init(init)
    checks.check_parameters(parameters)
    weights = open_values(feature_weight) if feature_weight else None
    with cluster.starting() as started:
        from hkmeans_dask.estimator import HierarchicalKMeans

        model = HierarchicalKMeans(**parameters)
        with fills_explained(X), started.running():
            model.fit(X, feature_weight=weights)
    save(model, model_path, overwrite=overwrite)
    _print_table(_fitted(model, model_path))


@commands.command()
@every_parameter
@click.option(
    "--slurm",
    is_flag=True,
    help="Write job scripts here: hkmeans-job.sh (one node), hkmeans-array.sh (any).",
)
@reading(source="INPUT")
def plan(
    source: str,
    init: str,
    component: str | None,
    cluster: Cluster,
    slurm: bool,
    **parameters: Any,
) -> None:
    """Tell what a fit will read, write, hold and run."""
    from hkmeans_dask.storage import opening

    cluster.check([source])
    given = {"init": init, "component": component, **parameters}
    X = open_values(source, component)
    parameters["feature_axis"] = opening.find_axis(X, parameters["feature_axis"])
    parameters["init"] = _init(init)
    with cluster.starting() as started, started.running():
        from hkmeans_dask.estimator import HierarchicalKMeans

        planned = HierarchicalKMeans(**parameters).plan(X)
    _print_table(planned.rows())
    if slurm:
        _print_table(write_scripts(planned, source, given, cluster.workers))


def _init(init: str) -> Any:
    """Take the name of a method, or else read centers."""
    from hkmeans_dask.inputs import checks
    from hkmeans_dask.storage import source

    if init in checks.INITS:
        return init
    try:
        return source.read(open_values(init))
    except FileNotFoundError as error:
        methods = " or ".join(map(repr, checks.INITS))
        raise ValueError(
            f"init should be {methods} or the path of a Zarr array of centers. "
            f"{init!r} was given."
        ) from error


def _fitted(model: HierarchicalKMeans, model_path: str) -> Iterator[tuple[str, object]]:
    yield "model", model_path
    yield "clusters", model.n_clusters_
    yield "features per cluster", _spread(model.sizes_)
    if model.n_excluded_:
        yield "features left out", model.n_excluded_
    yield "inertia", f"{model.inertia_:.6g}"
    yield "passes over the data", model.n_passes_
    for name, seconds in model._seconds.items():
        yield f"seconds, {name}", f"{seconds:.2f}"


def _spread(sizes: Any) -> str:
    import numpy as np

    return f"{min(sizes)} to {max(sizes)}, median {np.median(sizes):g}"


_level = click.option(
    "--level",
    type=click.Choice(["fine", "coarse"]),
    default="fine",
    show_default=True,
    help="Small clusters, or the big ones above them.",
)


@commands.command()
@_level
@weighting("2 counts it twice, 0 leaves it out of the mean.")
@job(source="INPUT", model_path="MODEL", output="OUTPUT")
@writing_arrays
def transform(level: str, feature_weight: str | None, **options: Any) -> None:
    """Average the features of each cluster; weights of the fit are not kept."""
    from hkmeans_dask.inputs.checks import CLUSTER, COARSE_CLUSTER

    means = functools.partial(means_of, level=level, feature_weight=feature_weight)
    by = COARSE_CLUSTER if level == "coarse" else CLUSTER
    _print(write("transform", means, **options, by=by, weights=feature_weight))


@commands.command()
@job(source="REDUCED", model_path="MODEL", output="OUTPUT")
@writing_arrays
def inverse_transform(**options: Any) -> None:
    """Give each feature the values of its cluster."""
    _print(write("inverse-transform", values_of, **options, by=FEATURE))


@commands.command()
@_level
@job(source="INPUT", model_path="MODEL", output="OUTPUT")
@writing_arrays
def predict(level: str, **options: Any) -> None:
    """Label new features over the same samples."""
    _print(write("predict", functools.partial(labels_of, level=level), **options))


@commands.command()
@click.argument("model_path", metavar="MODEL")
@debugging
def info(model_path: str) -> None:
    """Describe a model."""
    from hkmeans_dask.storage import models, sound

    told, sizes = models.told_of(model_path)
    with sound.damage_told(model_path):
        _print_table(_described(told, sizes))


def _described(record: dict[str, Any], sizes: Any) -> Iterator[tuple[str, object]]:
    given, fitted = record["input"], record["fitted"]
    yield "input", f"{' x '.join(map(str, given['shape']))} {given['dtype']}"
    yield "clusters", fitted["n_clusters"]
    yield "features per cluster", _spread(sizes)
    if n_excluded := fitted["n_features_in"] - int(sizes.sum()):
        yield "features left out", n_excluded
    yield "inertia", f"{fitted['inertia']:.6g}"
    yield "passes over the data", fitted["n_passes"]
    yield "seed", record["seed"]
    yield "hkmeans_dask version", record["hkmeans_dask"]
    for name, value in record["parameters"].items():
        array = name == "init" and value is None
        yield name, "array of centers" if array else str(value).lower()


@commands.command()
@click.argument("model_path", metavar="MODEL")
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    default="report.html",
    show_default=True,
    help="The page.",
)
@click.option(
    "--shape",
    metavar="H,W[,3]",
    callback=image_shape,
    help="Draw centers as images of this shape, e.g. 8,8,3.",
)
@overwriting
@debugging
def report(
    model_path: str, output: str, shape: tuple[int, ...] | None, overwrite: bool
) -> None:
    """Write a report of a model: one HTML page."""
    check_output(output, overwrite, [model_path])
    import_estimator()
    from hkmeans_dask.estimator import HierarchicalKMeans

    model = HierarchicalKMeans.from_zarr(model_path)
    model.report(output, shape=shape, overwrite=overwrite)
    _print(output)


@commands.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="hkmeans-demo",
    show_default=True,
    help="Folder of the results.",
)
@click.option(
    "-k", "--n-clusters", type=int, default=1000, show_default=True, help="Clusters."
)
@overwriting
@showing
@debugging
def demo(output: Path, n_clusters: int, overwrite: bool) -> None:
    """Do the whole job on two photographs."""
    import_estimator()
    from hkmeans_dask.cli import demo

    with threads():
        _print_table(demo.run(output, n_clusters, overwrite=overwrite))
    _print(f"\n{demo.next_steps(output)}")


if __name__ == "__main__":
    sys.exit(main())

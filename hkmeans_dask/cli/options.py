"""Options that commands share: where to compute, what to read, every parameter."""

from __future__ import annotations

import functools
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hkmeans_dask.cli.cluster import Cluster
from hkmeans_dask.workspace.plain import read_small

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., Any]

logger = logging.getLogger(__name__)


def _computing(command: Command) -> Command:
    """Add the options that say where to compute, given to `command` as `cluster`."""

    @click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="Start so many one-thread processes on this machine, instead of "
        "computing in threads of this process.",
    )
    @click.option("--memory-limit", metavar="SIZE", help="Of each worker, e.g. 2GB.")
    @click.option("--scheduler", metavar="ADDRESS", help="Use a running cluster.")
    @click.option(
        "--scheduler-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The same, with the address in a file that the scheduler wrote.",
    )
    @_tls("--tls-ca-file", "The certificate of who signed those of the cluster (PEM).")
    @_tls("--tls-cert", "The certificate of this client.")
    @_tls("--tls-key", "Its key.")
    @functools.wraps(command)
    def with_cluster(
        workers: int | None,
        memory_limit: str | None,
        scheduler: str | None,
        scheduler_file: Path | None,
        tls_ca_file: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        **options: Any,
    ) -> None:
        if scheduler and scheduler_file:
            raise click.UsageError("Give --scheduler or --scheduler-file, not both.")
        address = _address_in(scheduler_file) if scheduler_file else scheduler
        tls = (tls_ca_file, tls_cert, tls_key)
        command(cluster=Cluster(workers, memory_limit, address, tls), **options)

    return with_cluster


def _tls(name: str, text: str) -> Callable[[Command], Command]:
    kind = click.Path(exists=True, dir_okay=False, path_type=Path)
    return click.option(name, type=kind, help=text)


def _address_in(scheduler_file: Path) -> str:
    try:
        return str(json.loads(read_small(scheduler_file) or b"")["address"])
    except (ValueError, KeyError, TypeError) as error:
        raise click.UsageError(
            f"{scheduler_file} is not a file that a dask scheduler wrote. Start one "
            "with dask scheduler --scheduler-file."
        ) from error


def showing(command: Command) -> Command:
    """Add options that say how much of the work is shown, and show it."""

    @click.option(
        "--verbose",
        type=click.IntRange(min=0),
        default=1,
        show_default=True,
        help="1 shows phases, 2 what they decided too, on stderr: bars in a terminal, "
        "else lines.",
    )
    @click.option("--quiet", is_flag=True, help="Show nothing: --verbose 0.")
    @functools.wraps(command)
    def shown_command(verbose: int, quiet: bool, **options: Any) -> None:
        from hkmeans_dask.runtime.progress import shown

        with shown(0 if quiet else verbose):
            if "hkmeans_dask.estimator" not in sys.modules:
                logger.info("importing ...")
            command(**options)

    return shown_command


def _note(context: click.Context, option: click.Parameter, value: bool) -> None:
    """Let `main` know, also of errors in other options."""
    if value:
        context.find_root().ensure_object(dict)["debug"] = True


debugging = click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_note,
    help="Show where an error comes from.",
)


overwriting = click.option(
    "--overwrite", is_flag=True, help="Replace what is there, when the work is done."
)


def reading(**arguments: str) -> Callable[[Command], Command]:
    """Add arguments (name of the parameter = name in the help) and common options."""

    def add(command: Command) -> Command:
        command = click.option(
            "--component", metavar="NAME", help="Array in an INPUT that is a group."
        )(_computing(debugging(command)))
        for name, metavar in reversed(arguments.items()):
            command = click.argument(name, metavar=metavar)(command)
        return command

    return add


def job(**arguments: str) -> Callable[[Command], Command]:
    """Add what `reading` adds, and whether an output may be replaced."""

    def add(command: Command) -> Command:
        return reading(**arguments)(overwriting(showing(command)))

    return add


def _plain_name(
    context: click.Context, option: click.Parameter, value: str | None
) -> str | None:
    """Refuse what names no array directly in a group."""
    if value is not None and (value in ("", ".", "..") or "/" in value):
        raise click.BadParameter(f"should be a name without '/'. {value!r} was given.")
    return value


writing_arrays = click.option(
    "--output-component",
    metavar="NAME",
    callback=_plain_name,
    help="Make OUTPUT a group with the array of this name in it, as xarray opens.",
)


def weighting(effect: str) -> Callable[[Command], Command]:
    """Add weights of features, and say what they do."""
    text = f"A Zarr array of one weight per feature: {effect}"
    return click.option("--feature-weight", metavar="PATH", help=text)


def image_shape(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Take the text of an option that is integers between commas."""
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is not height,width or height,width,3, e.g. 8,8,3."
        ) from error


def integer_or_none(value: Any) -> int | None:
    """Take the text of an option that may be ``none``."""
    if str(value).lower() == "none":
        return None
    try:
        return int(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not an integer or none.") from error


def integer_or_name(value: Any) -> int | str:
    """Take the text of an option that may be the name of an axis."""
    text = str(value)
    return int(text) if text.lstrip("-").isdecimal() else text


PARAMETERS: dict[str, tuple[Any, Any, str]] = {
    "--init": ("k-means++", str, "k-means++, random, or a Zarr array of centers."),
    "--batch-size": (1000, int, "Features in a mini-batch."),
    "--n-init": (10, int, "Initialisations tried."),
    "--max-no-improvement": (
        10,
        integer_or_none,
        "Stop after so many batches without better inertia.",
    ),
    "--random-state": (0, integer_or_none, "Seed."),
    "--feature-axis": (
        0,
        integer_or_name,
        "Axis of INPUT along which the features are: 0, 1, or its name if INPUT has "
        "names, as xarray writes.",
    ),
    "--allocation": (
        "size",
        click.Choice(["size", "inertia"]),
        "Shares of big clusters follow their size or inertia.",
    ),
    "--balance": (
        0.0,
        float,
        "From 0 (plain k-means) to 1 (clusters of like size, as far as can be).",
    ),
    "--refine": (0, int, "Passes over INPUT, at most, that improve the clusters."),
    "--metric": (
        "euclidean",
        click.Choice(["euclidean", "cosine"]),
        "How far features are apart; cosine is spherical k-means.",
    ),
    "--max-features-per-cluster": (
        256,
        integer_or_none,
        "Features kept for training per small cluster.",
    ),
    "--work-dir": (
        None,
        click.Path(file_okay=False),
        "Folder for intermediate results, or its URL: run again, a stopped fit goes "
        "on.",
    ),
}
"""Options of `fit`: default, type and help. The defaults are the estimator's."""


def every_parameter(command: Command) -> Command:
    """Add the number of clusters and the options of `PARAMETERS`."""
    command = click.option("--scaling", is_flag=True, help="Keep the norm.")(command)
    command = click.option(
        "--nested/--no-nested",
        default=True,
        help="Compare features with the small clusters of their big one alone, or all.",
        show_default=True,
    )(command)
    command = click.option(
        "--missing",
        type=click.Choice(["error", "exclude"]),
        default="error",
        help="Refuse features with NaN or infinities, or leave them out: label -1.",
        show_default=True,
    )(command)
    for name, (default, kind, text) in reversed(PARAMETERS.items()):
        command = click.option(
            name, default=default, type=kind, help=text, show_default=True
        )(command)
    return click.option(
        "-k", "--n-clusters", type=int, required=True, help="Clusters to find."
    )(command)

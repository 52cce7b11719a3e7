"""What a model makes of an array, written block by block."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from hkmeans_dask.cli import axes
from hkmeans_dask.cli.axes import FEATURE
from hkmeans_dask.cli.inputs import fills_explained, open_values
from hkmeans_dask.cli.saving import check_output
from hkmeans_dask.runtime.progress import phase, said_if_slow

if TYPE_CHECKING:
    from collections.abc import Callable

    from hkmeans_dask.applying import Later
    from hkmeans_dask.cli.cluster import Cluster
    from hkmeans_dask.estimator import HierarchicalKMeans
    from hkmeans_dask.runtime.execution import Runner


def labels_of(model: HierarchicalKMeans, X: Any, level: str) -> Later:
    """Label the features of X, which are in its columns if those of the fit were."""
    from hkmeans_dask.inputs.arrays import read_whole_features

    return model._new_labels(read_whole_features(X, model._axis), level)


def means_of(
    model: HierarchicalKMeans, X: Any, level: str, feature_weight: str | None
) -> Later:
    """Average the features of X, by weights in an array of Zarr."""
    weights = open_values(feature_weight) if feature_weight else None
    return model._means(X, level, weights)


def values_of(model: HierarchicalKMeans, X_red: Any) -> Later:
    """Give features the values of their clusters."""
    return model._spread(X_red)


def write(
    name: str,
    lazily: Callable[[HierarchicalKMeans, Any], Later],
    source: str,
    model_path: str,
    output: str,
    component: str | None,
    output_component: str | None,
    overwrite: bool,
    cluster: Cluster,
    by: str | None = None,
    weights: str | None = None,
) -> str:
    """Write what a method of the model makes of an array, block by block; say what."""
    from hkmeans_dask.storage import outputs

    start = time.perf_counter()
    needed = [source, model_path, *([weights] if weights else [])]
    cluster.check([*needed, output])
    check_output(output, overwrite, needed)
    X = open_values(source, component)
    with cluster.starting() as started:
        model, called = _model_for(X, model_path, by)
        names = axes.named(X, model._axis, called if by == FEATURE else by, called)
        _check_component(output_component, names)
        # The workers end before the output is removed after an error: a task that still
        # wrote would bring a part of it back.
        place_for = outputs.writing(output, overwrite=overwrite)
        with fills_explained(X), place_for as place, started.running():
            later = lazily(model, X)
            with phase(name, {}):
                compute = _runner_of(later).write
                outputs.fill(place, later.result, compute, names, output_component)
    result = later.result
    seconds = time.perf_counter() - start
    return f"{output}: {result.shape} {result.dtype}, {seconds:.1f} s"


def _runner_of(later: Later) -> Runner:
    """Find who computes, in as many threads as memory allows."""
    from hkmeans_dask.runtime.execution import Runner

    runner = later.runner or Runner.seen(later.rows, in_memory=False)
    runner.prepare()
    return runner


def _check_component(output_component: str | None, names: tuple[str, ...]) -> None:
    if output_component in names:
        raise ValueError(
            f"--output-component should be no name of an axis ({', '.join(names)}): "
            f"xarray takes that for coordinates. {output_component!r} was given."
        )


def _model_for(
    X: Any, model_path: str, by: str | None
) -> tuple[HierarchicalKMeans, str]:
    """Load a model, find its axis in X, and tell what it calls its features."""
    from hkmeans_dask.estimator import HierarchicalKMeans
    from hkmeans_dask.inputs.checks import CLUSTER
    from hkmeans_dask.storage import opening

    with said_if_slow("reading the model %s", model_path):
        model = HierarchicalKMeans.from_zarr(model_path)
    name = model.feature_axis
    if not isinstance(name, str):
        return model, FEATURE
    axis = opening.find_axis(X, CLUSTER if by == FEATURE else name)
    return model.set_params(feature_axis=axis), name

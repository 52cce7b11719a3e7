"""HierarchicalKMeans: what users see. The stages of `fit` are in `fitting`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
    clone,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from hkmeans_dask import applying
from hkmeans_dask.compat import output_container
from hkmeans_dask.fitting import fitted
from hkmeans_dask.inputs import arrays, checks, fit_key, xarrays
from hkmeans_dask.inputs.weights import read_weights
from hkmeans_dask.kmeans.hierarchy import EXCLUDED, Hierarchy
from hkmeans_dask.planning.job import job_of
from hkmeans_dask.planning.plan import plan_fit
from hkmeans_dask.reporting.diagnostics import Diagnostics
from hkmeans_dask.runtime.execution import peak_memory
from hkmeans_dask.runtime.progress import shown
from hkmeans_dask.stages.label import as_array
from hkmeans_dask.storage.known import asked_once
from hkmeans_dask.storage.persistence import ZarrPersistence

if TYPE_CHECKING:
    import os

    from hkmeans_dask.applying import Later
    from hkmeans_dask.inputs.arrays import Features
    from hkmeans_dask.kmeans.kernels import Array
    from hkmeans_dask.planning.job import Job
    from hkmeans_dask.planning.plan import Plan
    from hkmeans_dask.stages.label import Labels


def _features_in_rows(estimator: HierarchicalKMeans) -> bool:
    # With axis 1, `predict` would mean another thing to scikit-learn.
    return estimator.feature_axis == 0 or isinstance(estimator.feature_axis, str)


def _features_in_columns(estimator: HierarchicalKMeans) -> bool:
    return estimator.feature_axis == 1


class HierarchicalKMeans(
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    ClusterMixin,
    xarrays.Labelled,
    Diagnostics,
    ZarrPersistence,
    BaseEstimator,
):
    """Hierarchical k-means of features, out of core.

    Groups the *features* of X into `n_clusters`: first into about
    ``sqrt(n_clusters)`` big clusters, then each of these into its share of small ones.
    X may be larger than memory: a fit reads it twice (and for each `refine` pass once
    more), block by block, with the scheduler that dask would use (threads of this
    process, a cluster, ...). An X whose chunks along samples are too large to be joined
    is first copied, with a warning.

    Parameters
    ----------
    n_clusters : int
        Number of clusters to find.
    init : {'k-means++', 'random'} or ndarray of shape (n_clusters, n_samples), \
            default='k-means++'
        Initial centers, at both levels. Of an array of small-cluster centers, the big
        clusters come from clustering the given centers.
    batch_size : int, default=1000
        Features in a mini-batch. Seeds are chosen among two batches (or two features
        per cluster, if more), and `max_no_improvement` counts in units of it. Training
        batches grow from the larger of it and 32768 to all training rows of a (big)
        cluster, which measured better than small ones.
    n_init : int, default=10
        Candidates for each initial center, drawn as k-means++ draws one: that of lowest
        inertia is taken (greedy k-means++). With `init="random"` initialisations, the
        best of which is run.
    max_no_improvement : int or None, default=10
        Stop after so many batches that left little to gain: a pass over all training
        rows of a cluster counts as the batches in it, but as ten at least. None goes
        on until nothing changes, at most for 100 passes over the training rows, and
        never looks along principal axes (see Notes).
    verbose : int, default=0
        1 shows a bar per phase in a terminal and in Jupyter, elsewhere a line at its
        end (on stderr, unless logging is set up). 2 shows also what phases decided.
    random_state : int, RandomState instance or None, default=0
        An int makes the result reproducible.
    scaling : bool, default=False
        Multiply each cluster by ``sqrt(size)`` in `transform` and divide in
        `inverse_transform`: both keep the norm.
    feature_axis : {0, 1} or str, default=0
        0: X is ``[n_features, n_samples]``, each *row* is a feature to cluster.
        1: X is ``[n_samples, n_features]``, as in scikit-learn. Only X, the reduced X
        and its inverse are transposed by this; attributes and `init` are not.
        A name: the dimension of the features, X is an `xarray.DataArray`.
    allocation : {'size', 'inertia'}, default='size'
        A big cluster's share of `n_clusters` is proportional to its training rows, or
        to the power 0.75 of their sum of squared distances to its center: fewer where
        little varies, more where much does. Each share is at least one and at most the
        big cluster's distinct rows. With an array as `init` shares follow that.
    refine : int, default=0
        Passes over X, at most, in which features look beyond their big cluster, after
        passes over the training rows as with ``nested=False``: each is compared with
        the 2048 small clusters nearest to its big cluster's center (or 8 times those
        that a big one has on average, if more; all, if fewer), and centers move to the
        means. 0 keeps small clusters nested in big ones. With an array as `init` the
        passes start from it and compare all of its centers.
    metric : {'euclidean', 'cosine'}, default='euclidean'
        With 'cosine' (spherical k-means) features are scaled to unit length when they
        are read, centers have unit length, and no offset is removed. Features of zeros
        have no direction: they are left out and get label -1 (see `n_excluded_`), with
        a warning unless `missing` is 'exclude'.
    max_features_per_cluster : int or None, default=256
        Features kept for training per small cluster, at most; None keeps all.
    work_dir : path-like or None, default=None
        Folder for intermediate results that all workers see, or its URL as a str
        ('s3://bucket/work', by fsspec). Given, it is durable: the same fit,
        interrupted, goes on where it stopped and gives the same bits. One that has
        ended is given back without a read where X is known to be the same (in memory,
        or Zarr in a store that tells sizes and times); of another X it is labelled
        again, and fitted anew, with a warning, if it has changed. By default results
        are in memory, or where that is too small in dask's temporary directory until
        the fit ends, or where workers do not see that in the memory of all of them.
    nested : bool, default=True
        True: a feature is compared with the small clusters of its big one alone, as in
        nilearn. False: with all small clusters, and the centers first move to the
        means of the training rows that are nearest to them, along principal axes of
        the centers where few do, pass after pass, until 0.5% of the inertia or less is
        left to gain there: no read of X more. It takes time as
        ``n_features * n_clusters``, and leaves less inertia most of all where features
        have no clear groups. With `refine` the passes over X compare all small clusters
        too. With an array as `init` and `refine` there is nothing to move before X is
        read again.
    missing : {'error', 'exclude'}, default='error'
        What to do with features that have NaN or infinities: refuse X, or leave these
        features out (land in a field of the sea, background outside a mask). They get
        label -1 and are in no size, mean, inertia or training, for which as many others
        are drawn: clusters are those of the other features alone, up to the random
        draw. `n_excluded_` counts them. No more reads of X.
    balance : float, default=0.0
        From 0, plain k-means, to 1, clusters of like size as far as that can be: the
        imbalance factor less 1 falls to about the part ``1 - balance``. Each center
        has a price, learned on the training rows, that is added to the squared distance
        when a feature chooses: higher where a cluster would be too large, lower where
        too small. Shares of big clusters follow their training rows as far. With
        weights sizes are sums of weights. It takes training a few times as long, and
        labelling no longer.

    Attributes
    ----------
    labels_ : ndarray or dask array of shape (n_features,), int32
        The cluster of each feature; every value of ``range(n_clusters_)`` is used. -1
        for features left out.
        For lazy X a dask array that is already computed: it outlives the cluster. More
        than 4 million labels (2 million above 65,535 clusters) are in files, of
        `work_dir` or of a temporary folder that lives as long as the array; in memory
        if the workers of a cluster do not see such a folder.
    sizes_ : ndarray of shape (n_clusters_,), int64
        Features in each cluster.
    cluster_centers_ : ndarray of shape (n_clusters_, n_samples)
        The centers that the labelling used, float32 or float64 as X. The means of the
        clusters are ``transform(X)``.
    coarse_centers_ : ndarray of shape (n_big_clusters, n_samples)
    parents_ : ndarray of shape (n_clusters_,), int64
        The big cluster of each small one; with `refine` the one whose center is nearest
        to the small one's, and a big cluster may have none.
    compared_ : ndarray of shape (n_big_clusters or 1, n_compared), int32
        With `refine`: the small clusters with which the features nearest to each
        coarse center are compared, ascending; -1 for one that was dropped; one row if
        it is the same for all. Else without columns: those of their big cluster.
    prices_, coarse_prices_ : ndarray of shape (n_clusters_,), (n_big_clusters,)
        Added to the squared distances to `cluster_centers_` and `coarse_centers_` when
        features choose, not in `inertia_`; 0 without `balance`.
    axes_ : ndarray of shape (n_samples, n_axes)
        Orthonormal directions along which centers are ruled out before distances are
        measured, where features compare all small clusters; none where that would save
        little. They change no label.
    offset_ : ndarray of shape (n_samples,)
        Removed from features before distances are measured.
    inertia_ : float
        Sum of squared distances to `cluster_centers_`, times the weights of the
        features if fit got any; with the cosine metric of the features at unit length:
        twice the sum of ``1 - cosine``.
    cluster_inertia_ : ndarray of shape (n_clusters_,), float64
        The part of `inertia_` that each cluster has.
    coarse_sizes_, coarse_inertia_ : ndarray of shape (n_big_clusters,)
    imbalance_ : float, 1 if all clusters have one size
    n_clusters_ : int
        Clusters found: `n_clusters`, or fewer where distinct features ran out or no
        feature chose a cluster in the last read.
    n_features_in_ : int
        ``X.shape[feature_axis]``.
    n_excluded_ : int
        Features left out: with `missing` 'exclude' those with NaN or infinities, with
        the cosine metric those of zeros, else none. They are in no size, mean, inertia
        or training; `predict` gives -1 for such ones, `transform` leaves out those of
        label -1, whatever their values there, and `inverse_transform` gives them NaN.
    n_passes_ : int
        Passes over the data that the fit took: two reads of X and one for each pass
        that refined; one more where X was copied first, and its copy read instead.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Column names, if X was a DataFrame and `feature_axis` is 1.

    Notes
    -----
    Results depend on parameters, X, its chunks, the CPU type and library versions, not
    on workers, threads, order or retries. Other chunks: the same centers, and labels
    equal but for floating-point ties.

    Training looks along the principal axes of the training rows, and takes means over
    all samples at its end, where that pays: with 4096 rows or more in the training of
    big clusters (at most 2000 for each), 128 to 1024 samples, Euclidean distances, no
    array as `init`, a limit `max_no_improvement`, and a spectrum of which at most a
    third of the axes are above the mean (.45 of them for small clusters, and with
    `nested=False` or `refine`); and where clusters of some rows, found along the axes
    and in all dimensions, tell that next to nothing is lost.

    References
    ----------
    Ding and He, "K-means clustering via principal component analysis", 2004.
    Thirion et al., "Which fMRI clustering gives good brain parcellations?", 2014, and
    `nilearn.regions.HierarchicalKMeans`.

    Examples
    --------
    >>> import numpy as np
    >>> from hkmeans_dask import HierarchicalKMeans
    >>> X = np.array([[0.0], [0.1], [5.0], [5.2], [9.0], [9.1]])
    >>> model = HierarchicalKMeans(n_clusters=3).fit(X)
    >>> model.sizes_
    array([2, 2, 2])
    """

    def __init__(
        self,
        n_clusters: int,
        init: str | Array = "k-means++",
        batch_size: int = 1000,
        n_init: int = 10,
        max_no_improvement: int | None = 10,
        verbose: int = 0,
        random_state: int | np.random.RandomState | None = 0,
        scaling: bool = False,
        *,
        feature_axis: int | str = 0,
        allocation: str = "size",
        refine: int = 0,
        metric: str = "euclidean",
        max_features_per_cluster: int | None = 256,
        work_dir: str | os.PathLike[str] | None = None,
        nested: bool = True,
        missing: str = "error",
        balance: float = 0.0,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.batch_size = batch_size
        self.n_init = n_init
        self.max_no_improvement = max_no_improvement
        self.verbose = verbose
        self.random_state = random_state
        self.scaling = scaling
        self.feature_axis = feature_axis
        self.allocation = allocation
        self.refine = refine
        self.metric = metric
        self.max_features_per_cluster = max_features_per_cluster
        self.work_dir = work_dir
        self.nested = nested
        self.missing = missing
        self.balance = balance

    def fit(self, X: Any, y: None = None, *, feature_weight: Any = None) -> Self:
        """Find the clusters; computes, in two passes over X and those that refine.

        Parameters
        ----------
        X : array-like, DataFrame, dask array, zarr.Array or xarray.DataArray of \
                shape (n_features, n_samples), transposed if `feature_axis` is 1
            A DataArray has its dimensions in any order if `feature_axis` is a name.
            Integers and float16 are cast block by block; NaN and infinities refused,
            or left out, as `missing` says.
        y : Ignored
        feature_weight : array-like, dask array, zarr.Array or xarray.DataArray of \
                shape (n_features,), default=None
            Weights, finite and not negative, as the `sample_weight` of scikit-learn:
            2 counts as the feature twice in training and in `inertia_`; 0 leaves it
            out of training, but it is labelled and counted in `sizes_`. Lazy weights
            are computed at once (8 bytes a feature, in this process), and a DataArray
            is taken by position. None: all count once. Models do not keep weights:
            the means of `transform` have their own.

        Returns
        -------
        self : HierarchicalKMeans

        Raises
        ------
        ValueError, TypeError
            If a parameter, X or a weight breaks its rule; before X is read where
            possible.
        MemoryError
            If a worker, or this machine, cannot hold a task; before X is read.
        """
        parameters = self.get_params(deep=False)
        checks.check_parameters(parameters)
        X, features = xarrays.unlabel(X, self.feature_axis)
        seconds: dict[str, float] = {}
        with shown(self.verbose), asked_once():
            job = self._job(X, feature_weight)
            described = fit_key.describe(X, job.features, self._axis)
            how = (parameters, described, seconds)
            places, hierarchy, labels, passes = fitted(job, X, *how)
        self._set_fitted(job.features, hierarchy, labels, places.owner)
        self.n_passes_ = passes + (2 if job.features.whole else 3)
        self._features, self._seconds = features, seconds
        self._origin = {"seed": places.seed, "input": described}
        self._origin["peak_memory"] = peak_memory()
        if self.n_excluded_ and not job.exclude:
            warnings.warn(
                f"{self.n_excluded_} of {self.n_features_in_} features of X are zeros, "
                f"which have no direction for metric={self.metric!r}, and are left "
                "out: labels_ and predict give -1 for them, transform leaves them out, "
                "and inverse_transform gives NaN.",
                stacklevel=2,
            )
        n_clusters, n_left = job.n_clusters, self.n_features_in_ - self.n_excluded_
        if job.exclude:
            which = " that are not left out"
            n_clusters = checks.at_most_features(
                n_clusters, n_left, which, stacklevel=3
            )
        if self.n_clusters_ < n_clusters:
            warnings.warn(
                f"Number of distinct clusters ({self.n_clusters_}) found smaller than "
                f"n_clusters ({n_clusters}). Possibly due to duplicate points in "
                "X.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def plan(self, X: Any) -> Plan:
        """Tell what `fit` without weights will read, write, hold and run.

        And the memory that `transform` of the same X takes. Computes nothing.

        Parameters
        ----------
        X : as in `fit`

        Returns
        -------
        plan : Plan
            Passes, bytes, tasks, projected peaks of memory, operations: shown as a
            table, each an attribute, too.

        Raises
        ------
        ValueError, TypeError
            If a parameter or X breaks its rule.
        """
        checks.check_parameters(self.get_params(deep=False))
        X, _ = xarrays.unlabel(X, self.feature_axis)
        job = clone(self)._job(X)
        with asked_once(), warnings.catch_warnings(action="ignore"):  # were told above
            as_chunked = arrays.read_features(X, self._axis, join=False)
        stored_bytes = arrays.stored_bytes(X, job.features)
        return plan_fit(job, as_chunked, stored_bytes, self.work_dir)

    def transform(
        self, X: Any, *, level: str = "fine", feature_weight: Any = None
    ) -> Any:
        """Average the features of each cluster; lazy for lazy X, one pass over it.

        Parameters
        ----------
        X : as in `fit`
            With the features of `fit` and any samples.
        level : {'fine', 'coarse'}, default='fine'
            Whether to average small clusters, or big ones: the features of all their
            small ones. A big cluster without small ones (with `refine` it may have
            none) is zeros.
        feature_weight : as in `fit`, default=None
            Weights of the means; all 1 if not given, also where `fit` got weights. A
            cluster whose features have weight 0 is zeros. The graph of a lazy result
            carries them, 8 bytes a feature.

        Returns
        -------
        X_red : ndarray or dask array of shape (n_clusters_, n_samples), or \
                (n_big_clusters, n_samples), transposed if `feature_axis` is 1
            The means (times ``sqrt(size)`` with `scaling`), summed in float64; float32
            where X fits into it exactly, else float64. Dask for dask and Zarr X,
            chunked as X along samples. For a DataArray one with the dimension
            ``cluster`` (or ``coarse_cluster``) in place of the features, coordinates
            ``cluster_size`` and ``parent``, and those of the samples; where
            `set_output` asks for another container, that, without coordinates.
            Features left out (of label -1) are in no mean, whatever their values.

        Raises
        ------
        ValueError
            If X has another number of features, or NaN or infinities in those that are
            not left out (lazy: computed); if X and that of fit are DataArrays with
            different feature labels; if a weight breaks its rule.
        MemoryError
            If a worker, or this machine if no `Client` is active, cannot hold a task.
        TypeError
            If `set_output` asks for another container, and X is lazy or the level is
            coarse.
        """
        check_is_fitted(self)
        checks.check_level(level)
        X, relabel = self._plain_features(X, level)
        container = output_container(self)
        wrapped = self.feature_axis == 1 and container != "default"
        if wrapped:
            checks.check_container(container, level, lazy=arrays.is_lazy(X))
        given = applying.give(self._means(X, level, feature_weight))
        return given if wrapped else relabel(given)

    def inverse_transform(self, X_red: Any) -> Any:
        """Give each feature the value of its cluster; lazy for lazy input.

        Parameters
        ----------
        X_red : array-like, dask array, zarr.Array or DataArray of shape \
                (n_clusters_, n_samples), transposed if `feature_axis` is 1
            A DataArray has a dimension ``cluster``.

        Returns
        -------
        X_inv : ndarray or dask array of shape (n_features, n_samples), transposed if \
                `feature_axis` is 1
            float32 where `X_red` fits into it exactly, else float64; NaN for features
            left out. For a DataArray one with the feature dimension and coordinates of
            fit, if that got one.

        Raises
        ------
        ValueError
            If `X_red` has another number of clusters, or is a DataArray with these in
            another order.
        MemoryError
            As in `transform`.
        """
        check_is_fitted(self)
        X_red, relabel = self._plain_clusters(X_red)
        return relabel(applying.give(self._spread(X_red)))

    @available_if(_features_in_rows)
    def predict(self, X: Any, *, level: str = "fine") -> Any:
        """Label new features over the same samples; lazy for lazy X, one pass.

        Does not exist with ``feature_axis=1``. ``predict(X_train)`` equals `labels_`.

        Parameters
        ----------
        X : as in `fit`
            With any features and the samples of `fit`.
        level : {'fine', 'coarse'}, default='fine'
            Whether to give the small clusters, or the big clusters of these:
            ``parents_[labels]``.

        Returns
        -------
        labels : ndarray or dask array of shape (n_features,), int32
            -1 where a fit would leave the feature out. A DataArray on the feature
            coordinate for a DataArray.

        Raises
        ------
        ValueError
            If X has another number of samples, or NaN or infinities that `missing`
            refuses (lazy: computed); if it is so chunked along samples that a fit would
            copy it.
        MemoryError
            As in `transform`.
        """
        check_is_fitted(self)
        checks.check_level(level)
        X, relabel = self._plain_new_features(X)
        features = arrays.read_whole_features(X, 0)
        return relabel(applying.give(self._new_labels(features, level)))

    @available_if(_features_in_columns)
    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Names of the columns of `transform`: ``hierarchicalkmeans0`` and so on.

        Parameters
        ----------
        input_features : Ignored

        Returns
        -------
        names : ndarray of shape (n_clusters_,), object
        """
        names: Array = super().get_feature_names_out(input_features)
        return names

    def __sklearn_is_fitted__(self) -> bool:
        """Whether a fit has come to its end."""
        return hasattr(self, "labels_")

    def _job(self, X: Any, feature_weight: Any = None) -> Job:
        """Check X and weights; collect what the stages need."""
        features = self._take(X, reset=True)
        weights = read_weights(feature_weight, self.n_features_in_)
        return job_of(self.get_params(deep=False), features, weights)

    def _take(self, X: Any, *, reset: bool, join: bool = True) -> Features:
        """Check X, its features and their names; return it with features in rows."""
        features = arrays.read_features(X, self._axis, join=join)
        n_features = features.blocks.shape[0]
        if reset:
            checks.check_size(features.blocks.shape, self._axis)
        if self.feature_axis == 1:
            validate_data(self, X, reset=reset, skip_check_array=True)
        elif reset:
            self.n_features_in_ = n_features
        elif n_features != self.n_features_in_:
            raise ValueError(
                f"X has {n_features} features, but HierarchicalKMeans is expecting "
                f"{self.n_features_in_} features as input."
            )
        return features

    def _means(self, X: Any, level: str, feature_weight: Any) -> Later:
        """Average features later."""
        features = self._take(X, reset=False, join=False)
        weights = read_weights(feature_weight, self.n_features_in_)
        return applying.means(self, features.weighted(weights), level)

    def _spread(self, X_red: Any) -> Later:
        """Give features the values of their clusters later."""
        reduced = arrays.read_features(X_red, self._axis, join=False)
        return applying.spread(self, reduced)

    def _new_labels(self, features: Features, level: str) -> Later:
        """Label new features later, those of an array in memory after a look at it."""
        return applying.new_labels(self, features, self._hierarchy(), level)

    def _set_fitted(
        self, features: Features, hierarchy: Hierarchy, found: Labels, owner: object
    ) -> None:
        """Drop the clusters that no feature chose, and set the attributes."""
        used = found.sizes > 0
        hierarchy = hierarchy.keep(used)
        numbers = np.append(np.cumsum(used) - 1, EXCLUDED).astype(np.int32)
        self.labels_ = as_array(found, numbers, features, owner)
        self.sizes_ = found.sizes[used]
        self.offset_, self.coarse_centers_ = hierarchy.offset, hierarchy.coarse
        self.cluster_centers_, self.parents_ = hierarchy.fine, hierarchy.parents
        self.cluster_inertia_ = np.ldexp(found.inertia[used], features.weight_exponent)
        self.compared_ = hierarchy.compared
        self.prices_, self.coarse_prices_ = (
            prices if prices.size else np.zeros(len(centers), centers.dtype)
            for prices, centers in (
                (hierarchy.prices, hierarchy.fine),
                (hierarchy.coarse_prices, hierarchy.coarse),
            )
        )
        no_axes = np.empty((len(hierarchy.offset), 0), hierarchy.fine.dtype)
        self.axes_ = hierarchy.axes if hierarchy.axes.size else no_axes
        self.inertia_ = float(self.cluster_inertia_.sum())
        self.n_clusters_ = self._n_features_out = len(self.sizes_)

    def _hierarchy(self) -> Hierarchy:
        levels = (self.coarse_centers_, self.cluster_centers_, self.parents_)
        unit = np.array(self.metric == "cosine")
        prices = (self.prices_, self.coarse_prices_)
        how = (self.compared_, unit, *prices, self.axes_)
        return Hierarchy(self.offset_, *levels, *how)

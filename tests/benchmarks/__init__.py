"""Benchmarks against the peers: time, and how good the clusters are.

::

    python -m tests.benchmarks                    # every benchmark, full size
    python -m tests.benchmarks fmri --seeds 5     # one of them, five seeds
    python -m tests.benchmarks --small            # seconds in total

Every round (a repeat and a seed) runs all methods one after the other on the same
array, so that a noisy machine is noisy for all of them::

    round 0: hkmeans_dask  nilearn  ...
    round 1: hkmeans_dask  nilearn  ...     ratios are taken within a round
    ...

Loading data and importing methods is not timed. To add a peer, write its function
in `tests.benchmarks.methods` and register it there.
"""

"""Benchmarks against the peers: time, memory, reads, and how good the clusters are.

::

    python -m tests.benchmarks                      # all but those that take minutes
    python -m tests.benchmarks fmri --seeds 5       # one of them, five seeds
    python -m tests.benchmarks fmri --methods nilearn,faiss_flat
    python -m tests.benchmarks --small              # seconds each, in one process
    python -m tests.benchmarks simulate             # graphs of 10^9 features, no data
    python -m tests.benchmarks hosts                # hosts that share an S3 server
    python -m tests.benchmarks start                # small fits, and what they import

Every round (a repeat and a seed) runs all methods one after the other on the same
data, so that a noisy machine is noisy for all of them::

    round 0: hkmeans_dask  nilearn  ...     each in a fresh process, with a fresh
    round 1: hkmeans_dask  nilearn  ...     cluster where the benchmark wants one;
    ...                                     ratios are taken within a round

Loading data into memory, starting workers and importing are not timed. Data are written
once to the folder of ``--cache`` and stay there, except the largest.

`catalogue` lists the benchmarks and `methods` holds what they call: ours, the peers,
and the plain read or write that nothing can beat. To add a peer, write its function
there and register it in `catalogue`.
"""

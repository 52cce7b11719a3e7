"""Tests of `hkmeans_dask.cli`."""

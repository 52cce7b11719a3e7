"""Tests of `hkmeans_dask.remote`."""

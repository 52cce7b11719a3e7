"""Tests of `hkmeans_dask.runtime`."""

"""Tests of `hkmeans_dask.planning`."""

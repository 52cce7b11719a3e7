"""Tests of `hkmeans_dask.reporting`."""

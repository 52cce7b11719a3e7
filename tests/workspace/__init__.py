"""Tests of `hkmeans_dask.workspace`."""

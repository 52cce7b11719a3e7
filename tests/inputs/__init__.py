"""Tests of `hkmeans_dask.inputs`."""

"""Tests of `hkmeans_dask.stages`."""

"""Tests of `hkmeans_dask.storage`."""

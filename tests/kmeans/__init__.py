"""Tests of `hkmeans_dask.kmeans`."""

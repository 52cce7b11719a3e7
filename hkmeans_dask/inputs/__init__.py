"""What comes in: arrays of every kind, parameters, labels of xarray.

`arrays` makes of any X the dask array that the stages see, or refuses it; `tables` does
so for what is in memory, `labelled` takes the labels of DataArrays off and puts others
on, `checks` refuses parameters. May import `storage`, where X is Zarr. A new kind of X
is taken, or refused, in `arrays`. Begin there.
"""

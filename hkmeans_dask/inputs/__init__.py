"""What comes in: arrays of every kind, parameters, labels of xarray.

`arrays` makes of any X the dask array that the stages see, or refuses it: a new kind of
X is taken, or refused, there. `tables` converts for it what is in memory.
`weights` are those of features; `xarrays` takes the labels of DataArrays off and puts
others on; `checks` refuses parameters; `fit_key` tells one fit from another. May import
`storage`, where X is Zarr. Begin with `arrays`.
"""

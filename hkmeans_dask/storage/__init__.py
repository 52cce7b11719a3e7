"""All that touches Zarr.

`opening` opens what is at a path or URL, `source` reads arrays block by block on any
worker, checked, `unchanged` tells whether they are what was opened, `chunks` decodes
chunks of local files, a codec each, `stores` are URLs that are asked no more than is
needed, `packed` is what values of xarray stand for. `outputs` are written block by
block and appear when they are complete; `models` saves and loads a fitted model, which
`sound` looks over; `persistence` are the methods that do so. May import `workspace`,
`remote`, `runtime` and `compat`. Begin with `opening` for another format, with `chunks`
for a codec.
"""

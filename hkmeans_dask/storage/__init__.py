"""All that touches Zarr.

`store` opens inputs and writes outputs, which appear when they are complete; `source`
reads arrays block by block on any worker, checked; `chunks` decodes chunks of local
files, a codec each; `models` saves and loads fitted models. May import `workspace` and
`runtime`. Begin with `store` to open or write another format, with `chunks` for a
codec.
"""

"""Zarr-to-Zarr commands: what a terminal and a batch job see.

`commands` has them all, and `main`, which turns what went wrong into one line and an
exit code. `options` are what they share, `cluster` is where they compute, `alone` how
they start soon, `signals` how they are stopped, `demo` the whole job on two
photographs. May import everything, and does so inside the commands: ``--help`` waits
for none of it. Begin with `commands`; `applying` writes what a model makes of an array.
"""

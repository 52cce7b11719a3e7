"""What a fit will read, write, hold and run, known before it reads.

`job` is what a fit is to do, and where its rows go; `memory` the arithmetic of peaks,
from shapes alone; `plan` what users are told. May import the stages (for the number of
their tasks) and all below. Begin with `job`.
"""

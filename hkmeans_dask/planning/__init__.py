"""What a fit will read, write, hold and run, known before it reads.

`job` is what a fit is to do: where its rows go, and the refusal of what the memory of
workers, or of this machine, cannot hold. `memory` is the arithmetic of peaks, from
shapes alone; `plan` what users are told. May import the stages (for the number of their
tasks) and all below. Begin with `job`.
"""

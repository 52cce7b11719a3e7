"""The stages of a fit, one file each, in the order in which data flow.

`copy` (where chunks do not hold whole features), `sample`, `coarse`, `partition`,
`fine`, `even` (with `balance`), `beyond` (training rows look beyond their big cluster),
`refine`, `label`. Each looks for what is finished in the workspace, makes tasks
of pure functions and waits for them. They never import each other: `fitting` has their
order, `workspace.records` what they hand on. May import `inputs` and all
below. Begin with `sample`.
"""

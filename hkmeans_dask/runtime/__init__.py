"""All that touches schedulers: which one, how tasks run, what they tell.

`execution` finds the scheduler, runs tasks, again after passing errors, and holds their
results; `tasks` makes and names them; `blas` limits BLAS to one thread, `limits`
tell what memory may be taken; `progress` has
the bars and lines of phases, and who tells them what is done on each kind of scheduler;
`clients` tells what is held on clusters.
May import `kmeans` and `compat`. Begin with `execution`.
"""

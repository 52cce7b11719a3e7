"""All that touches schedulers: which one, how tasks run, what they tell.

`execution` finds the scheduler, names and runs tasks, again after passing errors;
`progress` shows bars and lines of phases, on any scheduler. May import `kmeans` alone.
Begin with `execution`.
"""

"""The clustering itself: NumPy on arrays in memory, nothing else of this package.

`hierarchy` is the model and the one rule that labels; `minibatch` trains centers from
the seeds of `seeding`, along the principal `axes` where they help; `allocation` shares
small clusters among big ones; `ranks` choose training rows. `kernels` (distances,
nearest centers) and `sums` (per cluster) work on tiles, which `crew` shares over
threads. Begin with `hierarchy`, then `minibatch`.
"""

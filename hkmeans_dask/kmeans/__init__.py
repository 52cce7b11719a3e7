"""The clustering itself: NumPy on arrays in memory, nothing else of this package.

`hierarchy` is the model and its rule: which centers a feature is compared with; the
arithmetic of it, and so all rounding of distances and nearest centers, is in `kernels`
and `scores` (for features that are compared with all centers also in `origins` and
`pruning`), that of sums per cluster in `sums`. `minibatch` trains centers from those of
`seeding`, along the principal `axes` where they help, `empty_clusters` moves centers
without points; `beyond` has the centers between passes over all big clusters, `moves`
takes those of a pass to their means. `allocation` shares small clusters among big ones,
`sampling` chooses training rows. `balance` learns prices that make sizes even, `even`
those among all small clusters, with room for `heaps` of equal points. `groups` and
`finite` look at points; `crew` shares tiles over threads. Begin with `hierarchy`, then
`minibatch`.
"""

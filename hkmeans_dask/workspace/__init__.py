"""Intermediate results of a fit: what a resume finds.

`files` is the workspace, in memory or one folder of checked files; `places` chooses it,
names the folder of a fit in a `work_dir`, and says what stays there; `rows` are
training rows in groups, `labels` labels in files. May import `kmeans` alone. Begin with
`files`.
"""

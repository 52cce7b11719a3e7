"""Intermediate results of a fit: what a resume finds.

`files` is the workspace, in memory or one folder of checked files; `places` chooses it,
names the folder of a fit in a `work_dir`, and says what stays there when it is done.
What a folder can do is in `folders` for this machine, in `remote_folders` for URLs.
What is in it: `records` (what a stage hands to the next), `rows` (training rows in
groups), `labels` (of lazy X, in files). `temporary` folders live as long as what reads
them. May import `kmeans`, `remote` and `runtime.clients`. Begin with `places`.
"""

"""What a fitted model tells of itself.

`page` is the HTML report: it gathers what `templates/` draw, with the marks of `charts`
and the sentences of `advice`. `diagnostics` are attributes and methods of the estimator
that follow from others. May import `storage`, to write the page. A new chart is a
function of `charts` and its place in `page` and `templates/`. Begin with `page`.
"""

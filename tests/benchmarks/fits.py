"""Fits that are asked for line by line; knows no other file here.

`versions` runs this beside the package of any checkout.
"""

from __future__ import annotations

import json
import sys
import time
from typing import IO

import dask
import numpy as np

from hkmeans_dask import HierarchicalKMeans


def serve(asked: IO[str], told: IO[str]) -> None:
    """Answer each line, what to fit, with the seconds of the processor.

    Parameters
    ----------
    asked : text file
        A mapping a line: `path` of an array, `parameters`, and `labels`, the path to
        which the labels are written.
    told : text file
    """
    dask.config.set(scheduler="threads", num_workers=1)
    HierarchicalKMeans(5).fit(np.eye(100))  # all is imported
    path, X = "", np.empty((0, 0))
    for line in asked:
        what = json.loads(line)
        if path != what["path"]:
            path, X = what["path"], np.load(what["path"])
        model = HierarchicalKMeans(**what["parameters"])
        began = time.process_time()
        model.fit(X)
        seconds = time.process_time() - began
        np.save(what["labels"], np.asarray(model.labels_))
        print(seconds, file=told, flush=True)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)

"""What `hkmeans-dask` does, where small arrays have as many files as large ones.

With STOP_AT, a pattern of files, the process stops itself when there is one: nobody who
looks from outside could be sure to see it in time.
"""

import importlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

from hkmeans_dask.cli.commands import main
from tests.processes import SIZES

for name, value in SIZES.items():
    module, _, constant = f"hkmeans_dask.{name}".rpartition(".")
    setattr(importlib.import_module(module), constant, value)


def stop_at(pattern):
    while not any(Path().glob(pattern)):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGSTOP)


if "STOP_AT" in os.environ:
    watcher = threading.Thread(target=stop_at, args=[os.environ["STOP_AT"]])
    watcher.daemon = True
    watcher.start()
sys.exit(main())

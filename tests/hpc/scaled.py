"""What `hkmeans-dask` does, where small arrays have as many files as large ones."""

import importlib
import sys

from hkmeans_dask.cli.commands import main
from tests.processes import SIZES

for name, value in SIZES.items():
    module, _, constant = f"hkmeans_dask.{name}".rpartition(".")
    setattr(importlib.import_module(module), constant, value)
sys.exit(main())

"""A worker that is killed in any phase costs a retry, not a bit."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from tests.processes import PHASES, blocks_of

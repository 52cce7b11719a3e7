"""Tests; `tests.benchmarks` measures."""

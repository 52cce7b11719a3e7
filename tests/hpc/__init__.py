"""Trials beyond one machine: SLURM, several hosts, object stores."""

"""Real processes and files, killed and damaged."""

"""What is measured: one function `(job) -> labels or None` each."""

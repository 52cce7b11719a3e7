"""Cases that show once more, in another way, what the first one shows."""

import pytest


def others_slow(cases):
    """Mark all cases but the first; ``pytest -m slow`` runs them."""
    first, *others = cases
    return [first, *(pytest.param(one, marks=pytest.mark.slow) for one in others)]

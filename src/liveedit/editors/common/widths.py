"""Widths of networks that grow with the model."""

__all__ = ["multiple"]

STEP = 64
"""Widths are multiples of this, so that any usual number of heads divides them."""


def multiple(width: int) -> int:
    """The smallest multiple of :data:`STEP` that is no narrower than ``width``."""
    return -(-width // STEP) * STEP

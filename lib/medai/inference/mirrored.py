"""The mirrored views of a patch: a network that has learned from both hands says more of a place than of one view."""

FLIPS: tuple[tuple[int, ...], ...] = ((), (0, 1, 2), (0,), (1, 2), (1,), (0, 2), (2,), (0, 1))
"""Axes to mirror, in an order whose every even number of views is balanced."""

"""Chest CT with known nodules, for the demo, tests and benchmarks.

``make_phantom(PhantomConfig(...), rng)`` gives the scan and the truth; ``medai.phantom.study`` writes a study of them.
"""

from medai.phantom.chest_ct import Phantom, PhantomNodule, make_phantom
from medai.phantom.config import Attachment, Kernel, Margin, NoduleSpec, PhantomConfig

__all__ = [
    "Attachment",
    "Kernel",
    "Margin",
    "NoduleSpec",
    "Phantom",
    "PhantomConfig",
    "PhantomNodule",
    "make_phantom",
]

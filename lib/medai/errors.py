"""The exceptions medai raises on purpose.

Each message says what is wrong, the actual value, and what to do about it, in words a radiologist can act on. The
command line turns any of them into one line and exit code 2; the server turns them into the HTTP status named in
``medai.server.problems``. Anything that is not a ``MedaiError`` is a fault of ours.
"""


class MedaiError(Exception):
    """Root of all errors raised on purpose."""


class InputError(MedaiError):
    """What the user gave cannot be used: a file, an option, a label, a point."""


class UnsupportedScanError(InputError):
    """A readable file that is not a scan this product can work on (modality, geometry, missing slices)."""


class GeometryError(InputError):
    """Two things that must share a grid do not, or an affine is not a usable scan geometry."""


class NotFoundError(MedaiError):
    """A case, model, label or strategy of that name does not exist; the message lists what does."""


class ConflictError(MedaiError):
    """The request is valid but not now: a training already runs, a case is reserved."""


class ForbiddenError(MedaiError):
    """Whoever asks may not do this: another role is needed, or another person."""


class ModelError(MedaiError):
    """Model weights are missing, damaged, or do not fit the network they are meant for."""


class StorageError(MedaiError):
    """Disk state could not be read or written; what was there before is still there."""


class CancelledByUserError(MedaiError):
    """Long work was stopped on request; the last good state stands."""

"""The only code that knows MONAI Label.

Importing anything from here first puts in place what MONAI Label 0.8.5 needs to be imported at all.
"""

from medai.server import compat

compat.prepare()

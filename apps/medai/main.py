"""The app that MONAI Label loads: it takes the one class here; all code lives in the package ``medai``."""

from medai.server.app import MedaiApp

__all__ = ["MedaiApp"]

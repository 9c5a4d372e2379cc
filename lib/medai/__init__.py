"""medai: a lung-nodule annotation server for MONAI Label. Importing this package loads nothing heavy."""

__version__ = "0.1.0"

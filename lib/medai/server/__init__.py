"""The only code that knows MONAI Label."""

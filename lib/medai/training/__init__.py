"""Data sets, augmentation and trainers."""

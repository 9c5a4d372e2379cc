"""Chest CT with known nodules."""

"""Predictors: click, lungs, candidates, whole scan."""

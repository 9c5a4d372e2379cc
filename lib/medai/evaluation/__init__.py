"""How good a model is: overlap, detection, comparison. numpy and scipy only."""

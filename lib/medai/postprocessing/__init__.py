"""From what a network says to masks and nodules on the grid of the scan."""

"""Baselines that see the hours of a stay as a sequence and learn all tasks at once, one file each."""

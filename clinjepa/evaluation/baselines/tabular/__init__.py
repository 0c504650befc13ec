"""Baselines that see one vector per prediction point, one file each."""

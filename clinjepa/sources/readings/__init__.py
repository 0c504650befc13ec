"""What every source does with a reading: unit, codes for "missing", range, misfiled values, counts of what was left out."""

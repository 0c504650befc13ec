"""What the project costs beside other ways of doing the same: `python -m benchmarks.<name> [--quick]` (see support/harness.py)."""

"""Ray drivers: the only place of the project that imports Ray. Each module runs as `python -m pipelines.<name> CONFIG [key=value ...]`."""

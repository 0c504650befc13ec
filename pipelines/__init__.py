"""Ray drivers, the only place of the project that imports Ray.

A module of this folder is a command: `clinjepa <name>`, or `python -m pipelines.<name> CONFIG [key=value ...]`. `graph` computes the
stages of a configuration, `scheduling` checks, starts and watches them, `stages` runs each kind, `results` reads what is finished, and
`terminal` holds what commands share: arguments, errors, exit statuses.
"""

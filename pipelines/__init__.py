"""Ray drivers, the only place of the project that imports Ray.

A module of this folder is a command: `clinjepa <name>`, or `python -m pipelines.<name> CONFIG [key=value ...]`. `graph` computes the
stages of a configuration, `scheduling` checks, starts and watches them, `stages` runs each kind, `results` reads what is finished, and
`terminal` holds what commands share: arguments, errors, exit statuses.
"""

import sys

if (sys.argv[0] == "-m" and any(word.startswith("pipelines.") for word in sys.orig_argv)) or sys.argv[0].endswith("/clinjepa"):
    # The program of this process. Its first imports take seconds on a busy machine, and `entered` comes after them.
    from pipelines.scheduling.interruptions import end_on_signals

    end_on_signals()

"""The trials of a grid or of a search on Ray Tune.

| module | contents |
|---|---|
| `running` | every trial of a grid as a Tune trial; which ones run at once; faults |
| `board` | the table of trials on the terminal |
| `searching` | a search for settings with Tune's searchers and schedulers, on the tuning split |
| `search_checks` | what of a search is refused before anything runs |
| `spaces` | the search space, searcher and scheduler of a configuration |
"""

"""The study of docs/study.md: which of the paper's claims hold on open data, and what stands beside gradient boosting.

| module | contents |
|---|---|
| `parts` | the runs of the study: data, recipes, seeds, settings |
| `figures` | what is kept of a finished run |
| `pages` | the tables of docs/study.md, made from the kept figures |
| `__main__` | runs the parts with `clinjepa`, and keeps their figures |
"""

"""CLIF, the Common Longitudinal ICU data Format, version 2.1 (clif-icu.com).

| module | contents |
|---|---|
| `source` | the source |
| `tables` | which tables and columns are read; checks of their types; ids as whole numbers; times in the hospital's zone |
| `extract` | one table streamed into buckets of patients |
| `stays` | admissions, transfers and patients to ICU stays |
| `events`, `treatments` | rows of the clinical tables to events |
"""

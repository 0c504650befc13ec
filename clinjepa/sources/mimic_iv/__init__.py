"""MIMIC-IV as PhysioNet publishes it: csv tables in `hosp/` and `icu/`. `row_meaning` and `stay_facts` are shared with `meds/`.

| module | contents |
|---|---|
| `source` | `MimicIvSource`: extraction, partitions, reading |
| `tables` | which tables and columns are read; checks of headers and item ids |
| `extract` | one csv table to Parquet files that can be read by patient |
| `stays` | icustays, patients, admissions and diagnoses to stays |
| `events` | the other tables to events, in the columns of `row_meaning` |
| `row_meaning` | items to variables, infusions and procedures to intervals, drugs, height and weight |
| `deaths` | the recorded death to the outcome of each stay |
| `stay_facts` | age, race group, outcome, later stays |
"""

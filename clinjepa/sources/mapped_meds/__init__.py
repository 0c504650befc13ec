"""MEDS data sets whose codes a map explains (`clinical.code_maps`), such as OpenICU's.

A subject's rows may be scattered over many files, in any order: they are first extracted into buckets of patients.

| module | contents |
|---|---|
| `source` | `MappedMedsSource`: pieces, partitions, reading |
| `maps` | the map, from the package or a file of the user |
| `files` | which files are read, their columns and types, rows in blocks |
| `codes` | codes of rows to the entries of the map |
| `structure`, `stays` | rows of stays, hospitalisations and people; ICU stays of them |
| `extract` | files streamed into buckets of patients, with counts of codes |
| `coverage` | the codes that the map lacks, and what share of the rows that is |
| `events` | extracted rows to events |
"""

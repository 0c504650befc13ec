"""MIMIC-IV in the MEDS format (Medical Event Data Standard).

| module | contents |
|---|---|
| `source` | `MedsSource`: files, partitions, reading |
| `columns` | names and types of columns; ids as floating-point numbers |
| `splits` | the data set's own split; schemas of its files |
| `stays` | admission and discharge codes to stays |
| `events` | the other codes to events, in the columns of `mimic_iv.row_meaning` |
| `intervals` | start rows and end rows to intervals |
| `overlaps` | the same for infusions without an order id, where several of one item run at once |
"""

"""The PhysioNet/CinC challenges of 2012 and 2019: one text file per ICU stay.

| module | contents |
|---|---|
| `record_files` | record files in a zip or folder, read as one table of strings; partitions |
| `cinc2012`, `cinc2019` | the sources |
| `cinc2012_records`, `cinc2019_records` | lines of records to stays and events |
"""

"""Simulated ICU patients: as a source, and written as MIMIC-IV tables.

| module | contents |
|---|---|
| `source` | `SimulatorSource`: patients, stays and their known onsets in the common schema |
| `patient` | patients and their deteriorations |
| `physiology` | the course of a stay, with treatments |
| `charting` | which values are charted, and when |
| `mimic_writer` | a MIMIC-IV folder of any size, with compression in parallel |
| `mimic_rows` | stays to rows of MIMIC-IV's tables |
| `mimic_people`, `mimic_orders` | tables about patients and places; tables of orders |
| `mimic_filler` | filler rows, and the definitions of tables and items |
| `gzip_stream` | one gzip stream from pieces compressed separately |
"""

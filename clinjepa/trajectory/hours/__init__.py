"""From a source's stays and events to hourly texts, the hourly grid and the history before admission: the ingest artifact.

| module | contents |
|---|---|
| `ingest` | the ingest artifact: built part by part, joined |
| `cohort`, `split` | which stays are kept; the patient-disjoint split |
| `grid` | events -> rows of (event, hour) |
| `text` | rows -> state, action and static texts |
| `doses` | an action text with its doses multiplied, for the drift evaluation |
| `aggregates`, `history` | rows -> one value per hour and variable, during the stay and before admission |
| `code_coverage` | words on the codes that a source's map lacks |
| `range_losses`, `odd_medians`, `other_units` | columns that are not what their name says, and the unit that would fit |
| `data_card` | counts: coverage, dropped rows by reason, tokens per text |
"""

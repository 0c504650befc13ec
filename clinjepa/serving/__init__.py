"""A finished run in use: rows of a patient in, probabilities and forecasts out. Imports no Ray; `pipelines/serving` runs it.

| module | contents |
|---|---|
| `requests`, `responses` | the bodies of `POST /v1/score`, typed |
| `hours` | rows of a request as the texts of its hours, by the code of the ingest |
| `meds_rows` | the same for rows of a MEDS file |
| `reading` | texts to latents, latents to keys and values of the predictor, each once |
| `bounded_cache` | a cache bounded in bytes |
| `scoring` | `ScoringModel`: an export that answers requests |
| `service`, `metrics`, `openapi` | paths, token, limits and faults of the HTTP service, without a server |
"""

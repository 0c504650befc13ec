"""A trained encoder and predictor as one folder that loads without Ray. The folder holds no data of a patient.

| module | contents |
|---|---|
| `weights` | encoder, base, predictor and tokenizer in formats that other programs read |
| `card` | the model card, its figures, and the terms of the data (`card_template.md`, `terms.yaml`) |
| `folder` | starting, finishing and checking an export; its manifest `export.json` |
"""

"""A trained encoder and predictor, and what their evaluations fitted, as one folder that loads without Ray.

No file has an identifier, a text or a time of a patient. The forecaster holds differences between measured and forecast values.

| module | contents |
|---|---|
| `weights` | encoder, base, predictor and tokenizer in formats that other programs read |
| `card` | the model card, its figures, and the terms of the data (`card_template.md`, `terms.yaml`) |
| `serving_facts` | `serving.json`: how texts of new patients are made, and what is predicted |
| `folder` | starting, finishing and checking an export; its manifest `export.json` |
"""

"""A trained encoder and predictor as one folder for somebody else: weights, tokenizer, model card, manifest; nothing of a patient."""

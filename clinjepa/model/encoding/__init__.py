"""Text -> latent: the encoder, packed rows of texts, the trial of a model class, next-token loss, activation checkpointing."""

"""From hourly texts to token ids, windows and latents: the tokenizer, the trajectory store and the latent store.

| module | contents |
|---|---|
| `tokenizer`, `bpe_training` | the tokenizer: trained here, or that of a pretrained model |
| `piece_tokens` | token ids of many texts, assembled from cached words |
| `build`, `trajectory_store` | the trajectory store, written and read |
| `windows` | the slices of a stay that training reads |
| `latent_rows` | files of latents: safetensors, read by byte range |
| `latent_store` | the latent store, written and read |
| `changed_actions` | latents of the action texts whose doses were changed, written and read |
| `range_file` | a stored file as a seekable Python file |
"""

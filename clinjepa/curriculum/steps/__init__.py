"""What a training step is made of.

| module | contents |
|---|---|
| `assembly` | predictor, encoder and optimizer of a phase, from the start or from a checkpoint |
| `encoder_specs` | the encoder of a job, from its typed settings and its tokenizer |
| `encoding` | latents of a micro-batch's unique texts, chunk by chunk, and their gradients |
| `objective` | forward and backward of one micro-batch; the sums of the loss terms |
| `optimizer` | AdamW with a group for the encoder and one for the predictor; a norm clip per group |
| `diagnostics` | collapse and error figures on tuning windows |
"""

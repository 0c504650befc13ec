"""A folder as Qwen3-8B's on Hugging Face without its weights, with a small tokenizer of the same kind; and a shrunk model made of it."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config

from clinjepa.model.pretrained.shrink import shrink_model

QWEN3_8B = {
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12288,
    "tie_word_embeddings": False,
    "max_position_embeddings": 40960,
    "rope_theta": 1_000_000.0,
}
VOCAB = 640
TEXTS = [
    f"t={hour}h | Heart Rate: {60 + hour} bpm. MAP: {50 + 3 * hour} mmHg. Lactate: {hour / 7:.2f} mmol/L. No active interventions."
    for hour in range(40)
] + ["Age: 63 years. Gender: male. Race: unknown. Norepinephrine: 0.1 mcg/kg/min. No observations."]
_PRETOKENS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def write_public_folder(folder: Path) -> Path:
    """config.json and tokenizer files; the embeddings have more rows than the tokenizer has tokens, as Qwen3's have."""
    config = Qwen3Config(vocab_size=VOCAB, architectures=["Qwen3ForCausalLM"], **QWEN3_8B)
    config.save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_PRETOKENS), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=VOCAB - 40, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>").save_pretrained(folder)
    return folder


def write_shrunk_model(folder: Path, head_dim: int = 8) -> Path:
    """`folder`/shrunk: the shrunk model of `folder`/public, 3 layers in several files."""
    shrink_model(str(write_public_folder(folder / "public")), folder / "shrunk", num_layers=3, head_dim=head_dim)
    return folder / "shrunk"

"""The encoder's specification from the settings of a job and the vocabulary of its trajectory store."""

from __future__ import annotations

from tokenizers import Tokenizer

from clinjepa.curriculum.settings import BaseSettings, EncoderSettings, LoraSettings, ReadingSettings
from clinjepa.errors import StoreError
from clinjepa.model.specs import EncoderSpec
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.tokenizer import load_tokenizer


def encoder_spec(settings: EncoderSettings, trajectories: Folder) -> EncoderSpec:
    """The encoder of a phase. Raises StoreError when the tokenizer files of the trajectory store were altered."""
    return EncoderSpec.from_settings(settings.to_json(), *_vocabulary(trajectories))


def reading_spec(base: BaseSettings, reading: ReadingSettings, trajectories: Folder) -> EncoderSpec:
    """The encoder of a latent store; raises StoreError as `encoder_spec`."""
    return EncoderSpec.from_settings(base.to_json() | reading.to_json(), *_vocabulary(trajectories))


def next_token_spec(base: BaseSettings, lora: LoraSettings | None, trajectories: Folder) -> EncoderSpec:
    """The language model of SFT, whose output layer reads states after the final norm.

    Args:
        base: which model.
        lora: the adapters to train; None trains all weights in fp32.
        trajectories: a folder with the tokenizer's files.

    Raises:
        StoreError: as `encoder_spec`.
    """
    trained = {"adaptation": "lora", "lora": lora.to_json()} if lora is not None else {"adaptation": "full", "lora": None}
    values = base.to_json() | trained | {"latent_from": "post_norm", "append_eos": True}
    return EncoderSpec.from_settings(values, *_vocabulary(trajectories))


def special_ids_of(trajectories: Folder) -> tuple[list[int], list[int]]:
    """Ids that stand before and after every text of a trajectory store, because its tokenizer adds them."""
    tokenizer = load_tokenizer(trajectories)
    return tokenizer.before, tokenizer.after


def _vocabulary(trajectories: Folder) -> tuple[int, int]:
    """(number of tokens, id of the end-of-text token)."""
    special = trajectories.read_json("special_tokens.json")
    try:
        tokenizer = Tokenizer.from_str(trajectories.read_bytes("tokenizer.json").decode())
        eos_id = tokenizer.token_to_id(special["eos"])
    except (ValueError, KeyError):
        eos_id = None
    if eos_id is None:
        raise StoreError(f"{trajectories.address}: its tokenizer files were altered; remove the folder and run again")
    return tokenizer.get_vocab_size(), eos_id

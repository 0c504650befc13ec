"""What encoder and predictor make of the hours of a stay, each text and each hour computed once.

Latents are kept by the digest of their text, since many hours are alike and a known stay sends its hours again. Keys and values of the
predictor are kept by the digest of all texts up to an hour: a new hour of a known stay is two texts and one step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from clinjepa.evaluation.downstream.point_features import ReadHours
from clinjepa.model.encoding.text_encoder import TextEncoder
from clinjepa.model.predictor import Predictor
from clinjepa.serving.bounded_cache import BoundedCache
from clinjepa.serving.hours import StayHours

_MOST_STEPS = 4
"""More hours than these are read in one pass, from the first on: a pass over a window costs about as much as some steps."""


@dataclass(frozen=True)
class Latent:
    """The latent of a text, and whether the text was cut."""

    z_D: np.ndarray
    was_cut: bool


@dataclass(frozen=True)
class EncodedStay:
    """Latents of a stay, float32: z_static_D, z_state_TD, z_action_TD; digests of its texts up to each hour; texts that were cut."""

    z_static_D: np.ndarray
    z_state_TD: np.ndarray
    z_action_TD: np.ndarray
    static_digest: bytes
    hour_digests: list[bytes]
    """Of the state and the action text of each hour."""
    num_cut: int


def text_digest(text: str) -> bytes:
    """The key of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class Encoding:
    """Texts to latents, through a cache."""

    def __init__(self, encoder: TextEncoder, most_bytes: int) -> None:
        self.encoder, self.num_tokens = encoder, 0
        self.cache: BoundedCache[Latent] = BoundedCache(most_bytes, lambda latent: latent.z_D.nbytes + 200)

    def stays(self, hours: Sequence[StayHours]) -> list[EncodedStay]:
        """Latents of several stays; their new texts are encoded together."""
        texts = [(each.static_text, *each.state_texts, *each.action_texts) for each in hours]
        digests = [[text_digest(text) for text in own] for own in texts]
        found = self._latents(dict(zip((d for own in digests for d in own), (text for own in texts for text in own), strict=True)))
        encoded = []
        for own in digests:
            number = len(own) // 2
            latents = [found[digest] for digest in own]
            z_ND = np.stack([latent.z_D for latent in latents])
            pairs = [state + action for state, action in zip(own[1 : number + 1], own[number + 1 :], strict=True)]
            cut = sum(latent.was_cut for latent in latents)
            encoded.append(EncodedStay(z_ND[0], z_ND[1 : number + 1], z_ND[number + 1 :], own[0], pairs, cut))
        return encoded

    def _latents(self, texts: dict[bytes, str]) -> dict[bytes, Latent]:
        found = {digest: latent for digest in texts if (latent := self.cache.get(digest)) is not None}
        missing = [digest for digest in texts if digest not in found]
        if missing:
            ids, was_cut = self.encoder.tokenise([texts[digest] for digest in missing])
            self.num_tokens += sum(map(len, ids))
            z_ND = self.encoder.encode(ids).cpu().numpy()
            for digest, z_D, cut in zip(missing, z_ND, was_cut, strict=True):
                found[digest] = Latent(z_D.copy(), cut)
                self.cache.put(digest, found[digest])
        return found


class Reading:
    """Hours read by the predictor, through a cache."""

    def __init__(self, predictor: Predictor, most_bytes: int) -> None:
        self.predictor, self.num_steps = predictor, 0
        self.cache: BoundedCache[ReadHours] = BoundedCache(most_bytes, _num_bytes)

    def read(self, stay: EncodedStay, start: int) -> ReadHours:
        """The hours of a stay from `start` on, read to the last one."""
        keys = _prefix_keys(stay, start)
        known = next((place for place in range(len(keys) - 1, -1, -1) if self.cache.holds(keys[place])), None)
        if known is None or len(keys) - 1 - known > _MOST_STEPS:
            self.cache.misses += 1
            made = self._whole(stay, start)
        else:
            kept = self.cache.get(keys[known])
            assert kept is not None
            made = kept
            for hour in range(start + known + 1, start + len(keys)):
                made = self._next(made, stay, hour)
        made = replace(made, z_state_TD=stay.z_state_TD[start:])
        self.cache.put(keys[-1], made)
        return made

    def _whole(self, stay: EncodedStay, start: int) -> ReadHours:
        device = next(self.predictor.parameters()).device
        parts = (stay.z_static_D[None], stay.z_state_TD[None, start:], stay.z_action_TD[None, start:])
        self.num_steps += parts[1].shape[1]
        with torch.no_grad():
            pred, hidden, cache = self.predictor(*(torch.from_numpy(part).to(device) for part in parts), keep_cache=True)
        last_pred, last_hidden = (part[:, -1:].clone() for part in (pred, hidden))
        return ReadHours(start, stay.z_state_TD[start:], stay.z_action_TD[-1], last_pred, last_hidden, cache)

    def _next(self, read: ReadHours, stay: EncodedStay, hour: int) -> ReadHours:
        device = next(self.predictor.parameters()).device
        state, action = (torch.from_numpy(z_TD[None, hour : hour + 1]).to(device) for z_TD in (stay.z_state_TD, stay.z_action_TD))
        self.num_steps += 1
        with torch.no_grad():
            pred, hidden, cache = self.predictor(None, state, action, cache=read.cache, keep_cache=True)
        return ReadHours(read.start, read.z_state_TD, stay.z_action_TD[hour], pred, hidden, cache)


def _prefix_keys(stay: EncodedStay, start: int) -> list[bytes]:
    """A key of everything up to each hour from `start` on."""
    sha = hashlib.blake2b(stay.static_digest + start.to_bytes(4, "little"), digest_size=16)
    keys = []
    for digest in stay.hour_digests[start:]:
        sha.update(digest)
        keys.append(sha.digest())
    return keys


def _num_bytes(read: ReadHours) -> int:
    tensors = [*read.cache.keys, *read.cache.values, read.cache.hour_BN, read.cache.visible_BN, read.pred_11D, read.hidden_11W]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + read.z_state_TD.nbytes + read.z_action_D.nbytes

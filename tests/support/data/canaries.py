"""Canary patients: ids, names, times and values that stand nowhere else, and the search for them in any bytes.

Every id of the simulated MIMIC-IV tables begins with the same seven digits, every time is of the 22nd century, some drugs have names that
no language has, and every heart rate ends with the same six decimals. So a hit is a leak and no accident.
"""

from __future__ import annotations

import base64
import gzip
import re
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

from clinjepa.config.schema import SimulatorConfig
from clinjepa.sources.simulated.mimic_writer import write_simulated_mimic
from clinjepa.storage import Folder

_ID_HEAD, _DRUG, _DECIMALS = "7316429", "Zyxquanol", "731642"
_HEART_RATE = "220045"
_SIMULATED_ID = re.compile(r"\b[123]000\d{4}\b")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{40,}")
_SAFE = bytes.maketrans(b"-_", b"+/")

FORMS: dict[str, re.Pattern[bytes]] = {
    "id": re.compile(rb"(?<!\d)" + _ID_HEAD.encode() + rb"\d{8}(?!\d)"),
    "drug": re.compile(rb"(?i)" + _DRUG.encode()),
    "time": re.compile(rb"(?<!\d)21\d\d-[01]\d-[0-3]\d[ T][0-2]\d:|datetime\(21\d\d, \d"),
    "value": re.compile(rb"\d\." + _DECIMALS[:-1].encode() + rb"2?(?!\d)"),
}
"""What is searched for, by its kind, as it is written in a text."""

TEXT = f"subject {_ID_HEAD}10000003 at 2117-09-30 02:56:00: heart_rate 92.{_DECIMALS}/min. {_DRUG}-7f given."
"""A text of such a patient, as an exception of a library may quote it."""


def plant(folder: Path, num_patients: int, seed: int = 0, mean_stay_hours: float = 48) -> list[int]:
    """Write MIMIC-IV tables in which every patient is a canary; returns the ids of patients, hospital and ICU stays."""
    write_simulated_mimic(Folder(folder), SimulatorConfig(num_patients=num_patients, seed=seed, mean_stay_hours=mean_stay_hours))
    ids: set[str] = set()
    for path in sorted(folder.rglob("*.csv.gz")):
        text = _SIMULATED_ID.sub(lambda found: _ID_HEAD + found[0], gzip.decompress(path.read_bytes()).decode())
        if path.name.startswith("emar."):
            text = re.sub(r"\b(Acetaminophen|Docusate Sodium|Heparin|Furosemide)\b", f"{_DRUG}-7f", text)
        if path.name.startswith("chartevents."):
            text = re.sub(rf",{_HEART_RATE},(\d+),\1,", rf",{_HEART_RATE},\1.{_DECIMALS},\1.{_DECIMALS},", text)
        ids.update(re.findall(rf"(?<!\d){_ID_HEAD}\d{{8}}(?!\d)", text))
        path.write_bytes(gzip.compress(text.encode(), 1))
    return sorted(map(int, ids))


class CanarySearch:
    """Finds canaries in bytes: as text of one, two or four bytes a character, as 64-bit numbers, and inside base64, gzip and zlib."""

    def __init__(self, ids: Iterable[int]) -> None:
        """ids: all ids that were planted, which are searched as numbers too."""
        self._ids = set(ids)
        tails = {struct.pack("<q", each)[4:] for each in self._ids}
        self._tails, self._heads = tails, {tail[::-1] for tail in tails}

    def kinds(self, content: bytes, depth: int = 2) -> set[str]:
        """Kinds of canaries in `content`; depth: how many layers of packing are opened."""
        found = {kind for kind, form in FORMS.items() if form.search(content)}
        if b"\0" in content:
            found |= {kind for kind, form in FORMS.items() if form.search(content.replace(b"\0", b""))}
        if self._holds_number(content):
            found.add("number")
        if depth:
            for unpacked in _unpacked(content):
                found |= self.kinds(unpacked, depth - 1)
        return found

    def hits(self, contents: Iterable[tuple[str, bytes]]) -> dict[str, set[str]]:
        """Kinds of canaries by the name of what holds them; nothing for what holds none."""
        return {name: kinds for name, content in contents if (kinds := self.kinds(content))}

    def _holds_number(self, content: bytes) -> bool:
        """Whether one of the ids stands in `content` as a number of 8 bytes, of either byte order."""
        for ending, form, before in [(tail, "<q", 4) for tail in self._tails] + [(head, ">q", 0) for head in self._heads]:
            place = content.find(ending)
            while place >= 0:
                piece = content[place - before : place - before + 8] if place >= before else b""
                if len(piece) == 8 and struct.unpack(form, piece)[0] in self._ids:
                    return True
                place = content.find(ending, place + 1)
        return False


def _unpacked(content: bytes) -> Iterable[bytes]:
    """What is inside `content` in base64, gzip or zlib."""
    for start in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]", content):
        packed = content[start.start() :]
        try:
            yield zlib.decompressobj(47).decompress(packed, 64 << 20)
        except zlib.error:
            continue
    for run in _BASE64.finditer(content):
        for shift in range(4):  # the run may begin with letters that do not belong to it
            piece = run[0][shift:].translate(_SAFE)
            yield base64.b64decode(piece[: len(piece) // 4 * 4])


def files_below(*roots: Path) -> Iterable[tuple[str, bytes]]:
    """Path and content of every regular file below the folders, and every file's own name as content."""
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield str(path), path.name.encode() + b"\n" + path.read_bytes()

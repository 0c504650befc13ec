"""Bytes of small text files to text: byte-order marks, sizes, whole numbers; names of columns for messages.

Excel, database clients and Windows editors save UTF-8 with a byte-order mark, or UTF-16. Used for the records and outcome files of the
challenges; tables of any size are read by `csv_stream`.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence

import polars as pl

from clinjepa.errors import SourceError
from clinjepa.storage import Folder

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WHOLE = r"^[+-]?\d{1,18}$"
_WHOLE_WITH_POINT = r"^([+-]?\d{1,15})\.0*$"
"""A whole number as a table with gaps writes it (`132539.0`). More digits may have been rounded."""


def decode_text(content: bytes, where: str) -> str:
    """The text of a file in UTF-8, or in the encoding that its byte-order mark names; without marks, wherever they are.

    UTF-16 without a mark is recognised by its zero bytes, since the files begin with an ASCII header.

    Raises:
        SourceError: Bytes are not text of that encoding; the message names `where` and the byte.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    if encoding is None:
        encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be" if content[:1] == b"\0" else "utf-8"
    try:
        return content.decode(encoding).replace("\ufeff", "")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where}: byte {error.start} is not {encoding.upper()}; these files are plain ASCII, get the file again"
        ) from None


def read_bounded(folder: Folder, name: str, most_bytes: int) -> bytes:
    """The content of a file.

    Raises:
        SourceError: The file has more than `most_bytes`; no more than that is read.
    """
    content = folder.read_bytes(name, 0, most_bytes + 1)
    if len(content) > most_bytes:
        raise too_large(f"{folder.address}/{name}", most_bytes)
    return content


def too_large(where: str, most_bytes: int) -> SourceError:
    """The error of a file above its limit."""
    return SourceError(f"{where}: larger than {most_bytes // 2**20} MB, which no file of this kind is; get it again")


def whole_number(text: pl.Expr) -> pl.Expr:
    """Int64 of strings that are a whole number, with blanks around it or with `.0` behind it; null for any other string."""
    stripped = text.str.strip_chars()
    digits = pl.when(stripped.str.contains(_WHOLE)).then(stripped).otherwise(stripped.str.extract(_WHOLE_WITH_POINT, 1))
    return digits.cast(pl.Int64, strict=False)


def found_columns(names: Sequence[str], known: Collection[str]) -> str:
    """For a message: which known columns a header has, and how many others. A header that is none holds a patient's values."""
    found = [name for name in dict.fromkeys(names) if name in known]
    others = len(names) - len(found)
    if not found:
        return f"none of its {len(names)} names is a column of this table; is the header missing?"
    return f"found: {', '.join(found)}" + (f" and {others} others" if others else "")

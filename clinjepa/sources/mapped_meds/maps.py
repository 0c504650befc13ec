"""Reading of a code map: one of the package's, or a file of the user on a disk or in an object store."""

from __future__ import annotations

from clinjepa.clinical.code_maps import CodeMap, code_map
from clinjepa.errors import ConfigError, StorageError
from clinjepa.storage import Folder


def load_code_map(name: str) -> CodeMap:
    """The map that `source.map` names; ConfigError names the file, the key and the remedy."""
    return code_map(name, _text)


def _text(address: str) -> str | None:
    parent, _, last = address.rpartition("/")
    try:
        folder = Folder(parent or ("/" if address.startswith("/") else "."))
        return folder.read_bytes(last).decode("utf-8") if folder.exists(last) else None
    except UnicodeDecodeError:
        raise ConfigError(f"{address}: not UTF-8; write the map as a UTF-8 text file") from None
    except (StorageError, OSError) as error:
        raise ConfigError(f"{address}: the map cannot be read ({type(error).__name__}); check its path and its permissions") from None

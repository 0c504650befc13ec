"""Files of a run on a local disk or in an object store, behind one class.

| module | contents |
|---|---|
| `folder` | `Folder`: an address and the files below it |
| `local`, `s3` | atomic local writes; the retry policy of every S3 request |
| `faults` | errors of file systems as one line that names address and remedy |
| `strays` | files beside data that are never data |
| `parts` | an artifact written part by part, each part resumable |
"""

from clinjepa.storage.folder import Folder

__all__ = ["Folder"]

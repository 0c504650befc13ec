"""Ray's temporary folder and access token of a cluster on this machine, closed to other users.

It holds logs, sockets and rows that do not fit into memory. Ray gives its own folders the mode 777, so they lie in a folder of the mode
700. The path must be short: Ray's longest socket below it may have 107 characters.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator

from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # compiled, its stub lacks it

from clinjepa.errors import ResourceError

_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

LONGEST = 107 - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.10")
"""Most characters of Ray's temporary folder."""


def private_ray_folder() -> str:
    """`<base>/clinjepa-<user id>/ray`, of which the part before `ray` is made with the mode 700.

    The base is `RAY_TMPDIR`, else `TMPDIR` where its path is short enough, else `/tmp`.

    Raises:
        ResourceError: No base is short enough and writable.
    """
    chosen = os.environ.get("RAY_TMPDIR")
    bases = [chosen] if chosen else [base for base in (os.environ.get("TMPDIR"), "/tmp") if base]  # noqa: S108  # made private below
    reasons = []
    for base in map(os.path.abspath, bases):
        try:
            folder = os.path.join(_private_folder(base), "ray")
        except OSError as error:
            reasons.append(f"{base}: {os.strerror(error.errno) if error.errno else type(error).__name__}")
            continue
        if len(os.fsencode(folder)) <= LONGEST:
            return folder
        reasons.append(f"{base} is too long by {len(os.fsencode(folder)) - LONGEST} characters for Ray's sockets")
    raise ResourceError(f"there is no place for Ray's temporary folder ({'; '.join(reasons)}); set RAY_TMPDIR to a short, writable folder")


def _private_folder(base: str) -> str:
    """A folder of the mode 700 of this user in `base`; another one where somebody else has made that name. Raises OSError."""
    os.makedirs(base, exist_ok=True)
    folder = os.path.join(base, f"clinjepa-{os.geteuid()}")
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            folder = tempfile.mkdtemp(prefix="clinjepa-", dir=base)
    os.chmod(folder, 0o700)
    return folder


@contextlib.contextmanager
def private_token(ray_folder: str) -> Iterator[None]:
    """Let clusters that start inside this block take their token from a file beside `ray_folder`, with the mode 600.

    Ray would write it to `~/.ray/auth_token`, which needs a home folder and has the mode that the umask leaves. A token that the user has
    set in the environment stays.
    """
    if any(os.environ.get(name) for name in _TOKEN_VARIABLES):
        yield
        return
    os.environ["RAY_AUTH_TOKEN_PATH"] = _token_file(os.path.dirname(ray_folder))
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_TOKEN_PATH"]
        AuthenticationTokenLoader.instance().reset_cache()


def _token_file(folder: str) -> str:
    """The token's file, made unless it exists. Whole at once, since another command may start at the same time."""
    path = os.path.join(folder, "auth_token")
    if not os.path.exists(path):
        handle, made = tempfile.mkstemp(prefix="token-", dir=folder)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
        os.remove(made)
    return path

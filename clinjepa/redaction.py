"""Credentials in texts: where an address holds them it is refused, and every text for a user or a file passes `redacted`.

`redacted` removes four kinds: user and password in an address (`s3://KEY:SECRET@bucket`), also without a scheme or percent-encoded,
parameters of an address or a setting whose names say what they are (`?X-Amz-Signature=…`, `password=…`), tokens of known form (AWS,
Hugging Face, GitHub, OpenAI, package indexes, private keys, JWT, `Bearer …`), and the values of environment variables such as
`AWS_SECRET_ACCESS_KEY`. So it does not matter which library wrote the text.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
REMEDY = (
    "take them out of it and give them to the process by its environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD) or by a role of the machine"
)
"""What a message says about an address that was refused."""

ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "RAY_ADDRESS")
"""Environment variables with an address that messages name; one with credentials is refused like an address of the configuration."""

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]+:/{1,2}(?!/)"
_ADDRESS = re.compile(rf"(?<![A-Za-z0-9+.-]){_SCHEME}[^\s'\"<>`]+")
_QUOTED_PASSWORD = re.compile(rf"(?<![A-Za-z0-9+.-])({_SCHEME}[^\s'\"<>`/?#@:]+:)(?!\d+['\"])[^\s@/]{{0,200}}['\"<>`][^\s@/]{{0,200}}@")
_WITHOUT_SCHEME = re.compile(
    r"(?P<before>^|[\s'\"(=,;<>`])(?://[^/\s:@'\"(]{1,200}:[^\s@]{1,200}|[\w.+%-]{1,200}:(?![/\\])(?=[a-z_-]{0,200}[^a-z_\s@-])[^\s@]{6,200})@"
    r"(?=[\w\[])"
)
"""`user:password@host` and `//user:password@host` in a sentence. A plain word between colon and @ (`mean:pressure@8h`) is no password."""
_ENCODED = re.compile(r"(?i)((?:%(?:25)*3A)(?:%(?:25)*2F){1,2})[^\s'\"&<>`]{1,400}?(%(?:25)*40)")
_NEXT_INSIDE = re.compile(rf"(?<=[^A-Za-z0-9+.-])(?={_SCHEME})")  # fsspec's zip://a.zip::s3://bucket/b.zip, ?next=https://…
_BARE = re.compile(r"(?://[^/\s:@]+|[^/\s:@]+):(?![/\\])[^\s@]+@\S")

_OBJECT_STORES = {"s3", "s3a", "s3n", "gs", "gcs", "oss", "r2", "hf"}
"""Addresses without a port: a colon before the first slash divides a key from its secret."""
_NAMES_BEFORE_AT = {"abfs", "abfss", "wasb", "wasbs", "adl", "ssh", "sftp", "scp", "hdfs", "webhdfs", "viewfs", "smb"}
"""Here the part before an @ may be a container or a user's name alone, which is no secret."""
_LOCAL = ("file:/", "local:/", "memory:/")
"""With one slash a path follows, with two a host."""

_NAME = (
    r"[\w.-]*(?:secret|passw(?:or)?d|passphrase|api[_-]?key|(?:access|account|private|shared|storage)[_-]?key|signature|credentials?"
    r"|(?:subscription|functions?|master|admin|write)[_-]key|(?:auth|session|access|bearer|tracking|hf|id|refresh|security)[_-]?token)"
    r"(?:[_-]?id)?"
)
_ASSIGNED = re.compile(rf"(?i)(?<![\w.-])({_NAME}['\"]?\s*[=:]\s*['\"]?)(?!\*\*\*)[^\s'\"&;,<>)}}\]]+")
_PARAMETER = re.compile(
    r"(?i)([?&#;](?:sig|pw|pwd|pass|key|auth|bearer|jwt|code|sas|otp|pin|[\w.-]*(?:token|secret|passw(?:or)?d|passphrase|api[_-]?key|access[_-]?key"
    r"|subscription[_-]?key|functions?[_-]?key))=)"
    r"(?!\*\*\*)[^\s&;#'\"<>]+"
)
_AUTHORIZED = re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?)(?!\*\*\*)(?:(?:basic|bearer|token|aws4-hmac-sha256)\s+)?[^\s'\"]+")
_KNOWN_FORMS = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:AKIA|ASIA)[A-Z0-9]{16}|hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|xox[abeprs]-[\w-]{10,}|xapp-[\w-]{10,}|AIza[\w-]{30,}|ya29\.[\w-]{16,}|GOCSPX-[\w-]{16,}|dapi[0-9a-f]{32}"
    r"|sk-(?=[\w-]{0,80}\d)[\w-]{16,}|[sr]k_(?:live|test)_\w{16,}|npm_[A-Za-z0-9]{20,}|pypi-(?=[\w-]{0,80}\d)[\w-]{20,}|hv[sb]\.[\w-]{20,}|SG\.[\w-]{16,}\.[\w-]{16,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)

_BEARER = re.compile(r"(?i)(?<![\w-])(bearer\s+)(?=[\w~+/-]{0,80}[\d~+])[\w.~+/-]{12,}={0,2}")
_NAMED = re.compile(r"(?i)\s*(?:(?:bearer|basic)\s+\S{6,}$|(?:pass|pwd|pw|pin|otp|token|key|auth)\s*[:=]\s*\S{4,})")
"""A whole setting that is a password with its name before it; in a sentence `pass: 12` may be anything."""

_SECRET_VARIABLE = re.compile(r"(?i)(?:secret|token|passw(?:or)?d|passphrase|credentials?|api_?key|access_key|private_key)(?:_|$)")
_NOT_A_SECRET = re.compile(r"(?i)_(?:path|file|dir|url|uri|mode|id|name|timeout|type|endpoint)$")
_HIDDEN_FROM, _REFUSED_FROM = 8, 16
"""Shortest value of such a variable that is hidden in texts, and that makes a setting refused. Shorter ones (`token`, `production`) also
occur as ordinary words."""
_MOST_DECODED = 4
"""A value is looked at as it is and after up to three percent-decodings."""


def redacted(text: str) -> str:
    """`text` with `***` in the place of every credential that is recognised; equal to `text` when there is none."""
    return _without_known_forms(_without_values(text, _HIDDEN_FROM))


def _without_known_forms(text: str) -> str:
    text = _QUOTED_PASSWORD.sub(rf"\g<1>{HIDDEN}@", text)
    text = _ADDRESS.sub(lambda found: _without_user(found[0]), text)
    text = _WITHOUT_SCHEME.sub(rf"\g<before>{HIDDEN}@", text)
    text = _ENCODED.sub(rf"\g<1>{HIDDEN}\g<2>", text)
    text = _PARAMETER.sub(rf"\g<1>{HIDDEN}", text)
    text = _AUTHORIZED.sub(rf"\g<1>{HIDDEN}", text)
    text = _BEARER.sub(rf"\g<1>{HIDDEN}", text)
    text = _ASSIGNED.sub(rf"\g<1>{HIDDEN}", text)
    return _KNOWN_FORMS.sub(HIDDEN, text)


def holds_credentials(text: str) -> bool:
    """Whether a single setting holds a credential.

    Stricter than `redacted`: the text is one value, so a password may hold blanks and quotation marks, and the scheme may be missing.
    """
    compact = re.sub(r"[\s'\"<>`]", "_", text)
    one_host = re.sub(rf"^((?:{'|'.join(_OBJECT_STORES)}|https?):)/+", r"\1//", text)  # s3:///KEY:SECRET@bucket
    decoded = [text]
    while len(decoded) < _MOST_DECODED and (further := unquote(decoded[-1])) != decoded[-1]:
        decoded.append(further)
    known = any(_without_known_forms(form) != form for form in (*decoded, compact, one_host))
    return known or bool(_BARE.match(text) or _NAMED.match(text)) or _without_values(text, _REFUSED_FROM) != text


def redacted_values(value: object) -> object:
    """A value of JSON with every string in it, keys included, redacted."""
    seen: dict[str, str] = {}  # the keys of a table's rows repeat

    def of(held: object) -> object:
        if isinstance(held, str):
            if held not in seen:
                seen[held] = redacted(held)
            return seen[held]
        if isinstance(held, dict):
            return {of(key): of(each) for key, each in held.items()}
        return [of(each) for each in held] if isinstance(held, list | tuple) else held

    return of(value)


def endpoints_with_credentials() -> list[str]:
    """Names of the variables of `ENDPOINTS` whose address holds credentials."""
    return [name for name in ENDPOINTS if holds_credentials(os.environ.get(name, ""))]


def _without_user(address: str) -> str:
    """An address, or a chain of them, without the part before the @ where that part is a credential."""
    return "".join(_one_without_user(part) for part in _NEXT_INSIDE.split(address))


def _one_without_user(address: str) -> str:
    head = re.match(_SCHEME, address)
    if head is None:
        return address
    scheme, rest = head[0].partition(":")[0].lower(), address[head.end() :]
    if head[0].lower() in _LOCAL or rest.startswith(f"{HIDDEN}@") or not _user_is_secret(scheme, rest):
        return address
    return f"{head[0]}{HIDDEN}@{rest.rpartition('@')[2] if '@' in rest else ''}"


def _user_is_secret(scheme: str, rest: str) -> bool:
    """Whether an address has a credential before an @, or in place of a bucket. rest: the address without its scheme."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return ":" in authority.rpartition("@")[0] or scheme not in _NAMES_BEFORE_AT
    # A password may hold a slash (AWS secrets do), so the @ may follow later; `host:8080/path@version` has a port.
    _, colon, port = re.sub(r"^\[[^\]]*\]", "", authority).partition(":")
    if scheme in _OBJECT_STORES:
        return bool(colon) and not authority.startswith("arn:")
    return bool(colon) and "@" in rest and not port.isdigit()


@lru_cache(maxsize=1024)
def _is_secret_variable(name: str) -> bool:
    return bool(_SECRET_VARIABLE.search(name)) and not _NOT_A_SECRET.search(name)


def _without_values(text: str, shortest: int) -> str:
    """`text` without the values of secret environment variables of at least `shortest` characters."""
    if len(text) < shortest:
        return text
    found = {value for name in os.environ if _is_secret_variable(name) and len(value := os.environ.get(name, "")) >= shortest}
    for value in sorted(found, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text


def redact_logs() -> None:
    """Make every log record of this process pass `redacted`, tracebacks included; a second call changes nothing."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def record(*arguments: Any, **options: Any) -> logging.LogRecord:
        made = make(*arguments, **options)
        try:
            words = made.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit their message
            words = f"{made.msg} {made.args}"
        made.msg, made.args = redacted(words), None
        if made.exc_info and made.exc_info[0] is not None:
            made.exc_text = redacted("".join(traceback.format_exception(*made.exc_info)).rstrip())
        return made

    record.redacts = True  # type: ignore[attr-defined]  # a mark on the function
    logging.setLogRecordFactory(record)

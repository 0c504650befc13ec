"""Credentials in texts: where an address holds them it is refused, and every text for a user or a file passes `redacted`.

`redacted` removes five kinds: user and password in an address (`s3://KEY:SECRET@bucket`), also without a scheme or percent-encoded,
values whose names say what they are (`?X-Amz-Signature=…`, `password=…`, `--token …`), tokens of known form (AWS, Hugging Face, GitHub,
private keys, JWT, `Bearer …`), addresses whose path is a secret, and the values of environment variables such as
`AWS_SECRET_ACCESS_KEY`. So it does not matter which library wrote the text. The forms are in `redaction_forms`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import traceback
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from clinjepa.redaction_forms import (
    A_DOMAIN,
    ADDRESS,
    ASSIGNED,
    ATTRIBUTE,
    AUTHORIZED,
    BEARER,
    COLOUR,
    COOKIE,
    ELEMENT,
    HIDDEN,
    KAGGLE,
    LOGIN,
    LOGIN_CALL,
    NAMED,
    NEXT_INSIDE,
    NO_USER,
    OPTION,
    ORACLE,
    PARAMETER,
    PERCENT,
    PROPERTY,
    QUOTED_PASSWORD,
    SCHEME,
    SECRET_PATH,
    SETTING_LOGIN,
    STRONG,
    TOKEN,
    USER_AND_HOST,
    WITH_USER,
)

REMEDY = (
    "take them out of it and give them to the process by its environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD) or by a role of the machine"
)
"""What a message says about an address that was refused."""

ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "RAY_ADDRESS")
"""Environment variables with an address that messages name; one with credentials is refused like an address of the configuration."""

_OBJECT_STORES = {"s3", "s3a", "s3n", "gs", "gcs", "oss", "r2", "hf"}
"""Addresses without a port: a colon before the first slash divides a key from its secret."""
_NAMES_BEFORE_AT = {"abfs", "abfss", "wasb", "wasbs", "adl", "ssh", "sftp", "scp", "hdfs", "webhdfs", "viewfs", "smb", "models", "runs"}
"""Here the part before an @ may be a container, a user's name or a model's name alone, which is no secret."""
_LOCAL = {"file", "local", "memory", "sqlite", "dbfs", "zip"}
"""With two slashes a host follows, with another number a path."""

_SECRET_VARIABLE = re.compile(
    r"(?i)(?:secret|token|passw(?:or)?d|passphrase|credentials?|api_?key|(?:access|private|signing|encryption|account|storage|shared|master|admin)_key|_pass|_pwd)(?:_|$)"
)
_NOT_A_SECRET = re.compile(r"(?i)_(?:path|file|dir|url|uri|mode|id|name|timeout|type|endpoint)$")
_HIDDEN_FROM, _REFUSED_FROM = 8, 16
"""Shortest value of such a variable that is hidden in texts, and that makes a setting refused. Shorter ones (`token`, `production`) also
occur as ordinary words."""
_ONE_ADDRESS = re.compile(r"\s*[^\s:]+:[^@]+@")
"""A setting that may be an address with blanks in its password: none stands before the colon."""
_SHORTEST_PASSWORD = 6
"""Of a password between a colon and an @ in a sentence."""
_MOST_DECODED = 4
"""A value is looked at as it is and after up to three percent-decodings."""


def redacted(text: str) -> str:
    """`text` with `***` in the place of every credential that is recognised; equal to `text` when there is none."""
    return _without_colour(_without_values(text, _HIDDEN_FROM))


def _without_colour(text: str) -> str:
    """`text` without credentials; a terminal's colours go too where one shows only without them."""
    text = _without_known_forms(text)
    if "[" in text and (plain := COLOUR.sub("", text)) != text:
        hidden = _without_known_forms(plain)
        return text if hidden == plain else hidden
    return text


def _without_known_forms(text: str) -> str:
    text = _as_it_stands(text)
    return PERCENT.sub(_percent_encoded, text) if "%" in text else text


def _as_it_stands(text: str) -> str:
    text = QUOTED_PASSWORD.sub(lambda found: f"{found[1] or found[2]}{HIDDEN}@", text)
    text = ADDRESS.sub(lambda found: _without_user(found[0]), text)
    text = USER_AND_HOST.sub(lambda found: f"{found['before']}{HIDDEN}@{found['host']}" if _is_login(found) else found[0], text)
    text = SECRET_PATH.sub(rf"\g<1>{HIDDEN}", text)
    for pattern in (PARAMETER, AUTHORIZED, COOKIE, LOGIN, LOGIN_CALL, WITH_USER, PROPERTY, ELEMENT, ATTRIBUTE, KAGGLE, ORACLE):
        text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    text = BEARER.sub(lambda found: f"{found[1] or found[2]}{HIDDEN}", text)
    for pattern in (OPTION, ASSIGNED):
        text = pattern.sub(lambda found: f"{found['before']}{found['open'] or ''}{HIDDEN}{found['close'] or ''}", text)
    return TOKEN.sub(HIDDEN, text)


def _percent_encoded(found: re.Match[str]) -> str:
    """A word as it is, or decoded and redacted where a credential shows only then."""
    for form in _decoded(found[0])[1:]:
        if (hidden := _as_it_stands(form)) != form:
            return hidden
    return found[0]


def _decoded(text: str) -> list[str]:
    """`text` as it is and after each percent-decoding that changes it."""
    forms = [text]
    while len(forms) < _MOST_DECODED and (further := unquote(forms[-1])) != forms[-1]:
        forms.append(further)
    return forms


def _is_login(found: re.Match[str], is_setting: bool = False) -> bool:
    """Whether `user:password@host` without a scheme is meant; `mean:pressure@8h` and `contact:mail@host.example` have this form too.

    A number counts before a domain or an address with a port, lower-case letters alone also, in a setting, before the name of a host.
    """
    if found["slashes"]:
        return True
    password, host = found["password"], found["host"]
    if NO_USER.match(found["user"]):
        return False
    is_domain = bool(A_DOMAIN.match(host))
    if not is_domain and re.fullmatch(r"v?\d+(?:[._-]\d+)*", host):
        return False  # `cohort:sepsis-3@2024`, `model:large-v2@1.3`
    if len(password) < _SHORTEST_PASSWORD:
        return is_setting and is_domain
    if re.fullmatch(r"\d[\d.]*", password):
        return is_domain
    return is_domain or bool(re.search(r"[^a-z_-]", password)) or (is_setting and "." not in host and host[0].isalpha())


def holds_credentials(text: str) -> bool:
    """Whether a single setting holds a credential.

    Stricter than `redacted`: the text is one value, so a password may hold blanks and quotation marks, and the scheme may be missing.
    """
    compact = re.sub(r"(?<!:)\s|['\"<>`]", "_", text) if _ONE_ADDRESS.match(text) else text
    for form in _decoded(text):
        login = SETTING_LOGIN.match(form)
        if (login and _is_login(login, is_setting=True)) or NAMED.match(form):
            return True
    return any(_without_colour(form) != form for form in (text, compact)) or _without_values(text, _REFUSED_FROM) != text


def redacted_values(value: object) -> object:
    """A value of JSON with every string in it, keys included, redacted."""
    seen: dict[str, str] = {}  # the keys of a table's rows repeat

    def of(held: object) -> object:
        if isinstance(held, str):
            if held not in seen:
                seen[held] = redacted(held)
            return seen[held]
        if isinstance(held, dict):
            return {of(key): HIDDEN if _is_named_secret(key, each) else of(each) for key, each in held.items()}
        return [of(each) for each in held] if isinstance(held, list | tuple) else held

    return of(value)


def _is_named_secret(key: object, value: object) -> bool:
    """Whether a string of JSON is a credential because of its key."""
    return isinstance(key, str) and isinstance(value, str) and _is_strong(key) and bool(ASSIGNED.match(f"{key}={json.dumps(value)}"))


@lru_cache(maxsize=4096)
def _is_strong(name: str) -> bool:
    return bool(re.fullmatch(STRONG, name, re.IGNORECASE))


def endpoints_with_credentials() -> list[str]:
    """Names of the variables of `ENDPOINTS` whose address holds credentials."""
    return [name for name in ENDPOINTS if holds_credentials(os.environ.get(name, ""))]


def _without_user(address: str) -> str:
    """An address, or a chain of them, without the part before the @ where that part is a credential."""
    return "".join(_one_without_user(part) for part in NEXT_INSIDE.split(address))


def _one_without_user(address: str) -> str:
    head = re.match(SCHEME, address)
    if head is None or address.startswith((f"{HIDDEN}@", "@"), head.end()):
        return address
    scheme, rest = head[0].partition(":")[0].lower(), address[head.end() :]
    slashes = head[0].count("/")
    if (scheme in _LOCAL and slashes != 2) or (slashes > 2 and "@" not in rest) or not _user_is_secret(scheme, rest):
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
    return bool(colon) and "@" in rest and not port.rstrip("\\").isdigit()


@lru_cache(maxsize=1024)
def _is_secret_variable(name: str) -> bool:
    return bool(_SECRET_VARIABLE.search(name)) and not _NOT_A_SECRET.search(name)


_ANY = "surrogateescape"  # a variable may hold bytes that are no text


@lru_cache(maxsize=256)
def _written(value: str) -> re.Pattern[str]:
    """A value as it may stand in a text: as it is, in JSON, and percent-encoded with hexadecimal digits of either case."""
    forms = {value, json.dumps(value)[1:-1], quote(value, safe="", errors=_ANY), quote(value, errors=_ANY), quote_plus(value, errors=_ANY)}
    patterns = [re.sub(r"%[0-9A-F]{2}", r"(?i:\g<0>)", re.escape(form)) for form in sorted(forms, key=len, reverse=True)]
    return re.compile("|".join(patterns))


def _without_values(text: str, shortest: int) -> str:
    """`text` without the values of secret environment variables of at least `shortest` characters."""
    if len(text) < shortest:
        return text
    values = {value for name in os.environ if _is_secret_variable(name) and len(value := os.environ.get(name, "")) >= shortest}
    for value in sorted(values, key=len, reverse=True):
        text = _written(value).sub(HIDDEN, text)
    return text


_PLAIN_FIELDS = frozenset(vars(logging.makeLogRecord({})))


def redact_logs() -> None:
    """Make every log record of this process pass `redacted`, tracebacks and `extra` included; a second call changes nothing."""
    _redact_messages()
    _redact_extra()


def _redact_messages() -> None:
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
        if made.stack_info:
            made.stack_info = redacted(made.stack_info)
        return made

    record.redacts = True  # type: ignore[attr-defined]  # a mark on the function
    logging.setLogRecordFactory(record)


def _redact_extra() -> None:
    """`logging` sets the fields of `extra` after the factory has made the record, so the loggers' own method is wrapped as well."""
    make = logging.Logger.makeRecord
    if getattr(make, "redacts", False):
        return

    def record(*arguments: Any, **options: Any) -> logging.LogRecord:
        made = make(*arguments, **options)
        for name in vars(made).keys() - _PLAIN_FIELDS:
            if isinstance(held := getattr(made, name), str | dict | list | tuple):
                setattr(made, name, redacted_values(held))
        return made

    record.redacts = True  # type: ignore[attr-defined]  # a mark on the function
    logging.Logger.makeRecord = record  # type: ignore[method-assign]

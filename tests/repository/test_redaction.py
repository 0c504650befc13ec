"""Credentials are recognised in every form that an address or a library's message can have, and ordinary texts stay as they are."""

from __future__ import annotations

import json
import logging
import pickle
import time
from pathlib import Path

import botocore.exceptions
import pytest

from clinjepa.errors import ClinJepaError, StorageError, first_line, in_safe_words
from clinjepa.redaction import HIDDEN, holds_credentials, redact_logs, redacted, redacted_values
from clinjepa.storage import Folder
from clinjepa.storage.faults import translated

KEY, SECRET = "PLANTEDKEY0123456789", "pLaNtEd/s3cret+VALUE"

ADDRESSES = {
    "key and secret": f"s3://{KEY}:{SECRET}@bucket/prefix",
    "secret that begins with digits": f"s3a://{KEY}:9/{SECRET}@bucket",
    "user and password": f"https://user:{SECRET}@host.example/data",
    "password with an at sign": f"http://user:p@{SECRET}@host.example:8080/x",
    "password with a question mark": f"https://user:{SECRET}?x@host.example",
    "token alone": f"https://{KEY}@host.example/data",
    "in a chain": f"simplecache::zip://a.zip::s3://{KEY}:{SECRET}@bucket/a.zip",
    "database": f"postgresql+psycopg2://user:{SECRET}@db.example/mlflow",
    "capital scheme": f"HTTPS://user:{SECRET}@HOST",
    "one slash": f"s3:/{KEY}:{SECRET}@bucket",
    "host of a file": f"file://user:{SECRET}@host/share",
    "numeric host": f"mysql://user:{SECRET}@[::1]:3306/x",
    "container with a password": f"abfs://name:{SECRET}@account.dfs.example/x",
    "user of ssh with a password": f"sftp://user:{SECRET}@host/x",
    "presigned": f"https://bucket.example/x?X-Amz-Credential={KEY}&X-Amz-Signature={SECRET}",
    "shared access signature": f"https://account.example/c?sv=1&sig={SECRET}",
    "parameter": f"https://host.example/x?user=u&password={SECRET}",
    "no at sign": f"s3://{KEY}:{SECRET}",
    "private token": f"https://host.example/a.zip?private_token={SECRET}",
    "token of a job": f"https://host.example/a.zip?a=1&job_token={SECRET}",
    "short name of a password": f"https://host.example/a.zip?user=u&pw={SECRET}",
    "bearer": f"https://host.example/a.zip?bearer={SECRET}",
    "fragment": f"https://host.example/x#access_token={SECRET}",
}
WHOLE_VALUES = {
    "password with blanks": f"https://user:two words {SECRET}@host.example",
    "password in quotation marks": f"https://user:'{SECRET}'@host.example",
    "without a scheme": f"user:{SECRET}@host.example:5000",
    "without a scheme, with slashes": f"//user:{SECRET}@host.example/x",
    "written with percent signs": f"https://host.example/?next=https%3A%2F%2Fuser%3A{SECRET}%40host.example",
    "written with percent signs twice": f"s3://{KEY}%253A{SECRET}%2540bucket",
    "three slashes": f"s3:///{KEY}:{SECRET}@bucket/x",
    "user of one letter without a scheme": f"u:{SECRET}@host.example/x",
    "token of a model hub": "hf_" + "a1" * 17,
    "key of a cloud": "AKIA" + "A1B2C3D4" * 2,
}
TOKENS = {
    "of a language model's provider": "sk-proj-" + "s3cret" * 4,
    "of another provider": "sk-ant-api03-" + "s3cret" * 4,
    "of a package registry": "npm_" + "s3cret" * 6,
    "of a package index": "pypi-AgEIcHlwaS5vcmcs3cret" * 2,
    "of a cloud's login": "ya29." + "s3cret" * 4,
    "of a payment service": "sk_live_" + "s3cret" * 4,
    "of a vault": "hvs." + "s3cret" * 4,
    "bearer": "Bearer " + "s3cret" * 3,
}
IN_SENTENCES = {
    "without a scheme": f"cannot reach u:{SECRET}@host",
    "without a scheme, with slashes": f"cannot reach //u:{SECRET}@h, giving up",
    "without a scheme, quoted": f"unknown host 'user:{SECRET}@host.example'",
    "password in quotation marks": f"cannot reach https://user:'{SECRET.replace('/', '')}'@host.example/x",
    "percent-encoded": f"redirected to https://host.example/?next=https%3A%2F%2Fuser%3A{SECRET}%40host.example&x=1",
    "percent-encoded twice": f"redirected to s3%253A%252F%252F{KEY}%253A{SECRET}%2540bucket",
    "a subscription": f"GET https://host.example/x?subscription-key={SECRET} failed",
}
PASSWORDS = ["pass: s3cret", "token=s3cret", "pw:s3cret", "Basic czNjcmV0Og==", "bearer s3cretword"]
PLAIN = [
    "the grid compares mae:map@8h and auroc:sepsis@24h",
    "bearer authentication is off, sk-learn-contrib-packages and pypi-attestation-models are not used",
    "pass 2 of 3, key: age",
    "output",
    "org/model-8B",
    "s3://bucket/name@version",
    "s3://bucket/a:b@c",
    "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/name/data@2",
    "abfss://container@account.dfs.core.windows.net/x",
    "http://host.example:8080/a@b",
    "http://[::1]:8080/a@b",
    "sftp://user@host/x",
    "hdfs://user@name:8020/x",
    "file:///data/a:b@c",
    "file:/data/a:b@c",
    "/data/a:b@c",
    "C:/data/x@y",
    "databricks://profile",
    "sqlite:///runs.db",
    "https://host.example/x?version=3&page=2",
    "https://host.example/x?tokenizer=bpe&compass=n",
    "zip://a/b.csv::s3://bucket/name@2.zip",
    "ICU of a hospital: mail@host.example",
    "curriculum.max_tokens=4096, tokenizer: bpe, RAY_AUTH_MODE=token",
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or check the credentials and the rights on this address",
]


def shows(text: str) -> bool:
    return any(part in text for part in (KEY, SECRET, "s3cret", "hf_a1", "AKIAA1"))


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_credential_in_an_address_is_found_and_hidden(name: str) -> None:
    address = ADDRESSES[name]
    text = redacted(f"cannot open '{address}/part': (reason), see {address}")
    assert holds_credentials(address) and not shows(text) and HIDDEN in text
    assert text.startswith("cannot open '") and redacted(text) == text


@pytest.mark.parametrize("name", WHOLE_VALUES)
def test_a_credential_that_only_a_whole_setting_shows_is_found(name: str) -> None:
    assert holds_credentials(WHOLE_VALUES[name])


def test_a_list_of_addresses_in_a_message_stays_as_it_is() -> None:
    text = '["http://host.example:8080","a@b"]'
    assert redacted(text) == text


@pytest.mark.parametrize("name", TOKENS)
def test_a_token_of_known_form_is_found_in_a_setting_and_hidden_in_a_sentence(name: str) -> None:
    token = TOKENS[name]
    assert holds_credentials(token) and not shows(redacted(f"the server refused {token}, try again"))


@pytest.mark.parametrize("name", IN_SENTENCES)
def test_a_credential_of_less_usual_form_is_hidden_in_a_sentence(name: str) -> None:
    text = redacted(IN_SENTENCES[name])
    assert not shows(text) and HIDDEN in text and redacted(text) == text


@pytest.mark.parametrize("setting", PASSWORDS)
def test_a_setting_that_is_a_named_password_is_found(setting: str) -> None:
    assert holds_credentials(setting)


@pytest.mark.parametrize("text", PLAIN)
def test_ordinary_addresses_and_words_stay_as_they_are(text: str) -> None:
    assert redacted(text) == text and not holds_credentials(text)


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"'Authorization': 'AWS4-HMAC-SHA256 Credential={KEY}/20260101/us-east-1/s3/aws4_request, Signature={SECRET}'",
        f'{{"aws_secret_access_key": "{SECRET}", "region": "x"}}',
        f"S3FileSystem(key='{KEY}x', secret='{SECRET}')".replace(f"key='{KEY}x', ", ""),
        f"AWS_SESSION_TOKEN={SECRET} PGPASSWORD={SECRET}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJzM2NyZXQi.abc-s3cret",
    ],
    ids=["bearer", "signed request", "json", "arguments", "variables", "private key", "web token"],
)
def test_what_libraries_quote_is_hidden(text: str) -> None:
    assert not shows(redacted(text)) and HIDDEN in redacted(text)


def test_the_value_of_a_secret_variable_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("PGPASSWORD", "another-planted-value")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/user/token-file")
    assert redacted(f"it was {SECRET} or another-planted-value in /home/user/token-file") == "it was *** or *** in /home/user/token-file"
    assert holds_credentials(f"folder-{SECRET}") and not holds_credentials("/home/user/token-file")


def test_a_short_value_of_such_a_variable_refuses_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_SECRET", "production")
    assert not holds_credentials("/data/production")


def quoting(address: str) -> list[Exception]:
    """Faults as s3fs, botocore and fsspec raise them, with the address in their words."""
    return [
        botocore.exceptions.EndpointConnectionError(endpoint_url=address),
        botocore.exceptions.HTTPClientError(error=f"Could not connect to {address}"),
        botocore.exceptions.ParamValidationError(report=f"Invalid bucket name {address}"),
        PermissionError(13, f"Access Denied: {address}"),
        OSError(5, "I/O", address),
        FileNotFoundError(address),
        ValueError(f"Protocol not known: {address}"),
    ]


@pytest.mark.parametrize("name", ADDRESSES)
def test_faults_of_libraries_that_quote_an_address_show_none_of_it(name: str) -> None:
    for error in quoting(ADDRESSES[name]):
        fault = translated("s3://bucket", error, is_local=False, writes=True)
        texts = [first_line(error), in_safe_words(error), in_safe_words(RuntimeError(str(error)))]
        assert not any(map(shows, [*texts, str(fault), repr(fault)])), (error, texts, fault)


def test_every_error_of_the_project_is_redacted_also_after_a_journey() -> None:
    for kind in (ClinJepaError, StorageError):
        error = kind(f"{ADDRESSES['key and secret']} cannot be reached")
        for same in (error, pickle.loads(pickle.dumps(error))):
            assert str(same) == "s3://***@bucket/prefix cannot be reached" and not shows(repr(same.args))


def test_json_files_hold_no_credential_and_keep_everything_else(tmp_path: Path) -> None:
    value = {"settings": {"path": ADDRESSES["user and password"], ADDRESSES["token alone"]: 1}, "rows": [{"loss": 0.5, "ok": None, "n": 3}]}
    Folder(tmp_path).write_json("manifest.json", value)
    Folder(tmp_path).create_json("other.json", value)
    for name in ("manifest.json", "other.json"):
        found = (tmp_path / name).read_text()
        assert not shows(found) and json.loads(found)["rows"] == value["rows"]
    assert redacted_values({"a": (1, "x")}) == {"a": [1, "x"]}


def test_log_records_are_redacted_with_their_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogRecordFactory()
    try:
        redact_logs()
        redact_logs()
        logging.getLogger("fsspec").warning("retrying %s after %d s", ADDRESSES["key and secret"], 3)
        try:
            raise ValueError(ADDRESSES["presigned"])
        except ValueError:
            logging.getLogger("aiobotocore").exception("failed")
        logging.getLogger("odd").warning("%d", ADDRESSES["token alone"])
    finally:
        logging.setLogRecordFactory(before)
    assert "retrying s3://***@bucket/prefix after 3 s" in caplog.text and "ValueError" in caplog.text and not shows(caplog.text)


def test_a_long_text_without_breaks_takes_no_more_than_linear_time() -> None:
    began = time.process_time()
    pieces = [
        "a",
        "secret",
        "a:/",
        "eyJ",
        "AKIA",
        "-",
        "password=",
        "sk-",
        "pypi-",
        "Bearer ",
        "%3A%2F%2F",
        "u:",
        "//u:",
        "u:p@",
        "s3:/a:'",
    ]
    for piece in pieces:
        redacted(piece * (100_000 // len(piece)))
    assert time.process_time() - began < 5

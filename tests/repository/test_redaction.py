"""Credentials are recognised in every form that an address or a library's message can have, and ordinary texts stay as they are."""

from __future__ import annotations

import json
import logging
import pickle
import time
import traceback
from pathlib import Path
from urllib.parse import quote, quote_plus

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
    "an element": f"<user>u</user><password>{SECRET}</password>",
    "an element with a type": f'<s3:SecretAccessKey type="text">{SECRET}</s3:SecretAccessKey>',
    "a call for a login": f"HTTPBasicAuth('reader', '{SECRET}') failed",
    "a login by a program": f"sshpass -p {SECRET} ssh user@host.example",
    "a subscription": f"GET https://host.example/x?subscription-key={SECRET} failed",
}
OF_PROGRAMS = {
    "a pair for requests": "get(url, auth=('zoe', 's3cret words'), timeout=3)",
    "a pair in json": '{"auth": ["zoe", "s3cret"], "timeout": 3}',
    "a call": "smtp.login('zoe', 's3cret')",
    "a property of spark": "spark.hadoop.fs.s3a.secret.key=s3cret/One+Two",
    "a line of spark-defaults": "spark.hadoop.fs.s3a.bucket.lab.secret.key   s3cret0One",
    "a property of hadoop": "fs.azure.account.key.lab.dfs.core.windows.net: s3cretOne==",
    "a client's property": "fs.azure.account.oauth2.client.secret.lab.dfs.core.windows.net=s3cret",
    "a registry": "podman login --username zoe -p s3cret registry.example",
    "a database's client": "mariadb -h db.example -u zoe -ps3cret icu",
    "a user before a password of letters": "Server=db; Uid=zoe; Pass=s3cret; Encrypt=yes",
    "a user in a sentence": "cannot connect with user=zoe pass='s3crets3cret'",
    "a short name": "retry with pw=s3cret-Zoe-9",
    "a short name in json": '{"host": "h", "pass": "s3cretZOE"}',
    "ntlm": "Authorization: NTLM TlRMs3cretABC9==",
    "of a proxy": "Proxy-Authorization: Negotiate s3cretABC9s3cret9==",
    "of a proxy's own scheme": "proxy-authorization=Custom-1 s3cretABC9s3cret9",
    "an attribute of xml": '<add key="DbPassword" value="s3cret one" />',
    "a tracker": "wandb login --relogin 0a1bs3cret0a1bs3cret0a1bs3cret0a1bs3cret",
    "a file of kaggle's": '{"username": "zoe", "key": "0a1bs3cret0a1bs3cret"}',
    "oracle": "sqlplus -S zoe/s3cret@icu",
    "oracle with a host": "cannot open zoe/s3cret@db.example:1521/icu",
}
PASSWORDS = ["pass: s3cret", "token=s3cret", "pw:s3cret", "Basic czNjcmV0Og==", "bearer s3cretword"]
NAMES = [
    *("secret_key", "JUPYTER_SECRET_KEY", "ceph_secret_key", "secretKey", "signing_key", "payload_encryption_key", "REDIS_PASS", "PG_PWD"),
    *("pwd", "token", "auth", "api_token", "private_token", "gitlab_token", "bot_token", "npm_token", "hub_token", "deploy-token"),
    *("X-Vault-Token", "JOB-TOKEN", "user_password2", "passphrase", "session_id"),
]
WORD = "Wint3r-s3cret-7"
WRITTEN = {
    "equals": "{name}={word}",
    "blanks around": "{name} = {word}, region: x",
    "colon": "{name}: {word}",
    "json": '{{"{name}": "{word}", "region": "x"}}',
    "yaml in marks": '{name}: "{word}"',
    "python": "dict(x=1, {name}='{word}')",
    "bytes": "{{'{name}': b'{word}'}}",
    "address": "GET https://host.example/x?a=1&{name}={word} failed",
}
WHOLE_PASSWORDS = {
    "blanks": '{"passphrase": "two s3cret words", "region": "x"}',
    "a mark inside": r'api_key="s3\"s3cret", region=x',
    "the other mark inside": """secret_key="it's s3cret", region=x""",
    "a wrapping call": "S3(api_key=SecretStr('s3cret one'), region=x)",
    "a call with two arguments": "get(authorization=Login('ann', 's3cret'), region=x)",
    "a pair": "get(authorization=('ann', 's3cret'), region=x)",
    "a block of yaml": "region: x\napi_key: >-\n  first part\n  s3cret\nzone: region",
    "the fields of a header": 'region; Authorization: Digest username="ann", realm="a b", response="s3cret99", nonce="s3cret"',
    "a separator inside": "password=one&s3cret;s3cret,s3cret region",
    "cookies": "region\nCookie: theme=dark; sid=s3cret",
    "a cookie that is set": "region\nSet-Cookie: sid=s3cret; HttpOnly",
    "no closing mark": "region api_key='s3cret two s3cret",
    "an option": "region run --db-password s3cret --region",
    "an option in marks": "region run --api-key 's3cret two s3cret'",
    "a user of curl": "curl --user zoe:s3cret https://region.example",
    "a line of netrc": "machine region login zoe password s3cret",
}
UNUSUAL_ADDRESSES = [
    "ftp:///zoe:s3cret-9@files.example/x",
    "gs:////zoe:s3cret-9@files",
    "proxy zoe%3As3cret-9%40files.example is away",
    "proxy zoe%253As3cret-9%2540files.example is away",
    "\x1b[1;32mhttps://zoe:s3cret-9@files.example\x1b[0m",
    "https://files.example/?api%5Fkey=s3cret-9",
    "see [zoe:s3cret-9@files] or {zoe:s3cret-9@files}",
    "|zoe:s3cret-9@files|",
    "'https://zoe:two s3cret words@files.example'",
    r"redis:\/\/zoe:s3cret-9@files\/x",
    r"\\zoe:s3cret-9@files\share",
]
MORE_TOKENS = {
    "of a drawing program": "figd_" + "s3cret-" * 5,
    "of a search": "tvly-" + "s3cret" * 4,
    "of a database": "sbp_" + "0a1b2c3d4e" * 4,
    "of an api's client": "PMAK-" + "s3cret" * 4 + "-" + "s3cret" * 5,
    "of a customer list": "pat-eu1-" + "s3cret-" * 4,
    "of a store of secrets": "dp.st.icu." + "s3cret" * 5,
    "of another store of secrets": "ops_eyJ" + "s3cret" * 8,
    "of a chat's address": "https://hooks.slack.com/workflows/T0A/B0B/s3crets3crets3cret",
    "of another chat's address": "https://discord.com/api/webhooks/123456/s3crets3cret",
    "of an office's chat": "https://x.webhook.office.com/webhookb2/s3crets3@0a1b-s3cret/IncomingWebhook/s3crets3cret/s3cret-1",
    "of an automation": "https://hooks.zapier.com/hooks/catch/123456/s3cret9/",
    "of an organisation's hub": "api_org_" + "s3cret" * 5,
    "of an issue tracker": "ATATT3x" + "FfGF0s3cret" * 3,
    "of a private network": "tskey-auth-" + "s3cret-" * 3,
    "of a container registry": "dckr_pat_" + "s3cret-" * 4,
    "of fast inference": "gsk_" + "s3cret" * 6,
    "of a chip maker": "nvapi-" + "s3cret_" * 6,
    "of hosted models": "r8_" + "s3cret" * 6,
    "of a till": "sq0csp-" + "s3cret-" * 5,
    "of an encrypting program": "AGE-SECRET-KEY-1" + "QPZRY9X8" * 6,
    "of a mail program": "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\ns3cret\n-----END PGP PRIVATE KEY BLOCK-----",
    "of a provider, in parts": "sk-proj-s3cret_ab-cd_" + "s3cret" * 2,
}
PLAIN = [
    "<password>required</password> and <token>null</token>",
    "HTTPBasicAuth(user, password) takes two names",
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
    "/srv/db/passwd: vitals.zip is missing",
    "cannot read /run/secrets/api_key: no such file",
    "Signature: fit(rows, steps)",
    "signature=(rows, steps)",
    "def open(password: str, api_key: None = None, token: bool = False)",
    "secret_key=None, api_key: null, password=***, hub_token=${HUB_TOKEN}",
    "models:/sepsis-8h@latest",
    "models:/sepsis-8h/12",
    "registry.example:5000/lab/image:2.1@sha256:0123456789abcdef",
    "lab/image:latest@sha256:0123456789abcdef",
    "step:12@epoch_7",
    "loss:0.53251@step_100000, step:100000@epoch_7",
    "at 12:30:00@5",
    "sk-encoder-v3-small-tokens-2048",
    "email:ward7-ICU@host.example",
    "mailto:Ann.Lee9@host.example",
    "column:lactate@stays.csv",
    "key=lactate",
    "settings such as `password=`, a token, or `?private_token=…`",
    "token = vocabulary.token_of(name)",
    "token = folder / name",
    "export HUB_TOKEN=$(cat file)",
    "auth=kerberos",
    "basic statistics",
    "num_tokens: 12, max_token=40960, token=300000, token=[UNK], pad_token=padding, eos_token: <|endoftext|>",
    "low_pass=butterworth, first_pass=encoder, PWD=/home/ann/work",
    "each token: a variable, its value and the session: morning",
    "the option --token is needed, --password PASSWORD sets it",
    "docker run --user 1000:1000 image",
    "the cookie: accepted",
    "path%20with%3Ablanks%40home",
    "pass=3 of 4 tests, pass=forward, pass=12of20, pass: 12, pass = evaluate(rows)",
    "compass=North9, bypass=Ward7B9, low_pass=Filter2B",
    "clinjepa serve --port -p 8080, docker run -p 8080:80 image, then login -p SECRET_WORD or login -p 8080",
    "the widths pw=0.25, pw=width, npw=Ward7B99, hpw=3",
    "the user: ann, pass 3, user=ann passed=4",
    "cohort:sepsis-3@2024",
    "model:large-v2@1.3.0",
    "auth=('kerberos',), auth=none, login(user, word)",
    "fs.s3a.aws.credentials.provider=org.example.Provider2, fs.s3a.secret.key is missing, fs.s3a.endpoint=host.example",
    "fs.gs.auth.service.account.json.keyfile=/etc/lab/account1.json",
    "Authorization: required for this address",
    '<add key="Region" value="eu-1"/>, <item name="password" type="text"/>',
    "mysql -port 3306 -P 3306 --port=3306",
    "wandb login, wandb login --relogin",
    '{"username": "ann", "key": "heart_rate"}',
    "Qwen/Qwen3-8B@main, lab/model@v2, data/part-1@host.example",
    "sbp_mean_of_the_last_day, sbp_max, tvly-out, pat-na1-x, dp.pt.x",
    "\x1b[32mdone\x1b[0m in 3 s",
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or check the credentials and the rights on this address",
]


def shows(text: str) -> bool:
    return any(part in text for part in (KEY, SECRET, "s3cret", "hf_a1", "AKIAA1", WORD))


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


@pytest.mark.parametrize("name", OF_PROGRAMS)
def test_a_credential_as_programs_write_it_is_hidden_and_refused(name: str) -> None:
    text = f"region {OF_PROGRAMS[name]} zone"
    hidden = redacted(text)
    assert not shows(hidden) and HIDDEN in hidden and hidden.startswith("region") and redacted(hidden) == hidden
    assert holds_credentials(OF_PROGRAMS[name])


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("name", NAMES)
def test_a_value_is_hidden_whatever_its_name_and_however_it_is_written(name: str, written: str) -> None:
    text = WRITTEN[written].format(name=name, word=WORD)
    for level in range(4):
        hidden = redacted(text)
        assert hidden == text.replace(WORD, HIDDEN) and redacted(hidden) == hidden and holds_credentials(text), (level, text, hidden)
        text = json.dumps(text)


@pytest.mark.parametrize("name", WHOLE_PASSWORDS)
def test_a_password_is_hidden_to_its_end_and_what_follows_stays(name: str) -> None:
    text = redacted(WHOLE_PASSWORDS[name])
    assert not shows(text) and HIDDEN in text and "region" in text and redacted(text) == text


@pytest.mark.parametrize("text", UNUSUAL_ADDRESSES)
def test_an_address_in_unusual_surroundings_shows_no_password(text: str) -> None:
    assert (
        not shows(redacted(text)) and HIDDEN in redacted(text) and "files" in redacted(text) and redacted(redacted(text)) == redacted(text)
    )


@pytest.mark.parametrize("host", ["files.example", "localhost", "10.0.0.7", "files:5432"])
def test_a_password_of_letters_counts_before_a_domain_or_a_port(host: str) -> None:
    text = f"zoe:plantedwords@{host}"
    assert redacted(f"cannot reach {text} now") == f"cannot reach ***@{host} now" and holds_credentials(text)


@pytest.mark.parametrize("name", MORE_TOKENS)
def test_a_token_of_another_provider_is_found_and_hidden(name: str) -> None:
    token = MORE_TOKENS[name]
    text = redacted(f"the server refused {token}, try again")
    assert holds_credentials(token) and not shows(text) and "QPZRY9" not in text and text.endswith(", try again")


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


def test_the_value_of_a_secret_variable_is_hidden_also_where_an_address_or_json_encodes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    value = 'plAnted/+ "value" & more'
    monkeypatch.setenv("REPORTS_DB_PASS", value)
    for form in (
        value,
        quote(value),
        quote(value, safe=""),
        quote(value, safe="").replace("%2F", "%2f"),
        quote_plus(value),
        json.dumps(value),
    ):
        assert (
            "plAnted" not in redacted(f"it was x{form}x") and "more" not in redacted(f"it was x{form}x") and holds_credentials(f"x{form}x")
        )


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


def test_no_argument_and_no_note_of_an_error_shows_a_credential() -> None:
    inner = ValueError(ADDRESSES["key and secret"])
    for argument in (["api_key=s3cret-9"], {"api_key": "s3cret-9"}, b"api_key=s3cret-9", Path("/x/api_key=s3cret-9"), inner):
        error = StorageError(argument)
        error.add_note("api_key=s3cret-9")
        for same in (error, pickle.loads(pickle.dumps(error))):
            told = "".join(traceback.format_exception(same))
            assert not shows(told + repr(same)) and HIDDEN in told
    assert str(StorageError("part", 3)) == "('part', '3')"


def test_json_files_hold_no_credential_and_keep_everything_else(tmp_path: Path) -> None:
    value = {"settings": {"path": ADDRESSES["user and password"], ADDRESSES["token alone"]: 1}, "rows": [{"loss": 0.5, "ok": None, "n": 3}]}
    Folder(tmp_path).write_json("manifest.json", value)
    Folder(tmp_path).create_json("other.json", value)
    for name in ("manifest.json", "other.json"):
        found = (tmp_path / name).read_text()
        assert not shows(found) and json.loads(found)["rows"] == value["rows"]
    keyed = {"api_key": "plain words", "secret": None, "password": "none", "token": "heart_rate"}
    assert redacted_values(keyed) == keyed | {"api_key": HIDDEN}
    assert redacted_values({"a": (1, "x")}) == {"a": [1, "x"]}


def test_log_records_are_redacted_with_their_tracebacks(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    before = logging.getLogRecordFactory()
    monkeypatch.setattr(logging.Logger, "makeRecord", logging.Logger.makeRecord)  # put back after the test
    try:
        redact_logs()
        redact_logs()
        logging.getLogger("fsspec").warning("retrying %s after %d s", ADDRESSES["key and secret"], 3)
        try:
            raise ValueError(ADDRESSES["presigned"])
        except ValueError as error:
            error.add_note("api_key=s3cret-9")
            logging.getLogger("aiobotocore").exception("failed")
        logging.getLogger("odd").warning("%d", ADDRESSES["token alone"])
        logging.getLogger("more").warning("kept", extra={"url": ADDRESSES["presigned"], "headers": {"x-api-key": "s3cret-9"}, "tries": 3})
    finally:
        logging.setLogRecordFactory(before)
    assert "retrying s3://***@bucket/prefix after 3 s" in caplog.text and "ValueError" in caplog.text and not shows(caplog.text)
    last = vars(caplog.records[-1])
    assert not shows(str(last)) and HIDDEN in last["url"] and last["tries"] == 3


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
        *("_token", "token=", "token:", "password='", "password=(", "password=a,", "password: |\n ", "secret_key[", "a:=", "{u:p", "/a."),
        *(
            "-password ",
            "login a ",
            "-u a:",
            "cookie: a",
            "authorization: digest a=b,",
            "%41",
            "'https://a:b ",
            "\\\\'",
            "\x1b[",
            "?a[",
            "&",
        ),
        *("x:y@sha", "hooks.slack.com/services/", "-----BEGIN PRIVATE KEY-----", "https:\\/\\/", "basic "),
        *(
            "login -",
            "login('a',",
            "auth=(",
            "user=a ",
            "fs.s3a.",
            "fs.azure.a.",
            "<a key='secret' ",
            "'username':'a','key':'",
            "a/b@",
            "sqlplus -a ",
        ),
        *("mysql a ", "wandb login --a ", "authorization: a1 ", "pass=", "fs.s3a.secret.key ", "<add "),
    ]
    for piece in pieces:
        redacted(piece * (50_000 // len(piece)))
    assert time.process_time() - began < 10


@pytest.mark.parametrize("name", ["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "STORE_MASTER_KEY", "SHARED_KEY", "MINIO_ADMIN_KEY"])
def test_the_value_of_a_key_of_a_store_is_hidden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, WORD)
    assert redacted(f"the server refused {WORD}, try again") == "the server refused ***, try again"

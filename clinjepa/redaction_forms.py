"""The forms that a credential has in a text, as patterns; `redaction` says what is done with them.

The time that a pattern takes grows with the length of the text and no faster: a repeated part has a bound, or cannot begin in its middle.
"""

from __future__ import annotations

import re

HIDDEN = "***"
QUOTE = r"\\{0,7}(?:'''|\"\"\"|['\"])"
"""A quotation mark, with a backslash or more where JSON is written inside JSON."""

# Addresses ---------------------------------------------------------------------------------------------------------------------------

SCHEME = r"[A-Za-z][A-Za-z0-9+.-]+:(?:\\{0,7}/){1,4}(?!\\{0,7}/)"
"""JSON may write each slash as `\\/`. More than two slashes are a slip in front of a host, or a path."""
ADDRESS = re.compile(rf"(?<![A-Za-z0-9+.-]){SCHEME}[^\s'\"<>`]+")
NEXT_INSIDE = re.compile(rf"(?<=[^A-Za-z0-9+.-])(?={SCHEME})")  # fsspec's zip://a.zip::s3://bucket/b.zip, ?next=https://…
QUOTED_PASSWORD = re.compile(
    rf"(?<![A-Za-z0-9+.-])({SCHEME}[^\s'\"<>`/?#@:]+:)(?!\d+['\"])[^\s@/]{{0,200}}['\"<>`][^\s@/]{{0,200}}@"
    rf"|(?<=['\"`])({SCHEME}[^\s'\"<>`/?#@:]+:)(?!\s|\d{{1,5}}\b)[^'\"`\n@/]{{0,200}}@"
)
"""A password with a quotation mark; also one with a blank, in an address that stands in quotation marks."""
COLOUR = re.compile(r"(?:\x1b|\\x1b|\\u001b|\\033)\[[0-9;]{0,20}[A-Za-z]")
"""A terminal's colour code ends in a letter, so the text after it would not begin a word."""
PERCENT = re.compile(r"(?<![^\s'\"<>`])[^\s'\"<>`]*%[0-9A-Fa-f]{2}[^\s'\"<>`]*")

USER_AND_HOST = re.compile(
    r"(?P<before>^|[\s'\"(=,;<>`{\[|\\])(?:(?P<slashes>//)[^/\s:@'\"(]{1,200}:[^\s@]{1,200}"
    r"|(?P<user>[\w.+%-]{1,200}):(?![/\\]|\d{2,5}/)(?P<password>[^\s@]{1,200}))@(?!sha\d{3}:)(?P<host>[\w\[][\w.:-]{0,200})"
)
"""`user:password@host` and `//user:password@host`. A port with a path, and the digest of an image, are none."""
SETTING_LOGIN = re.compile(
    r"(?P<slashes>//)?(?P<user>[^\s/:@]+):(?![\\/]|\d{2,5}/)(?P<password>[^\s@]+)@(?!sha\d{3}:)(?P<host>[^\s@][\w.:-]{0,200})"
)
"""The same as a whole setting, where more characters may stand in the name and in the password."""
NO_USER = re.compile(r"(?i)(?:e-?mail|mail(?:to)?|contact|to|from|b?cc|by|author|maintainer|sender|reply-to|arn|\d+)$")
"""Words before a colon that a mail address follows, and numbers (`12:30@5`)."""
A_DOMAIN = re.compile(
    r"(?i)(?:localhost\b|[a-z][\w.-]*:\d{2,5}\b|\d+(?:\.\d+){3}|(?:[\w-]+\.)+(?!csv|json|ya?ml|txt|zip)[a-z]{2,}(?![\w-]))"
)

# Names of credentials ----------------------------------------------------------------------------------------------------------------

_KEYS = "access|account|private|shared|storage|secret|signing|encryption|consumer|subscription|functions?|master|admin|write"
_TOKENS = (
    "auth|session|access|bearer|tracking|hf|id|refresh|security|api|private|personal|github|gitlab|bot|npm|vault|job|oauth|csrf|deploy"
    "|mlflow"
)
HADOOP = (
    r"(?:[\w-]{1,40}\.){0,6}fs\.(?:s3[an]?|azure|abfss?|gs|oss|cosn?)\.(?:[\w-]{1,60}[.]){0,8}(?:[\w-]{1,40}-)?"
    r"(?:secret|key|token|sas|password)(?:\.[\w.-]{1,200})?"
)
"""Properties of Hadoop and Spark: `fs.s3a.secret.key`, `fs.azure.account.key.<account>`."""
STRONG = (
    rf"(?:{HADOOP}|"
    r"[\w.-]*(?:secret|passw(?:d|or[dt])|passphrase|kennwort|mot_de_passe|api[_-]?key"
    rf"|(?:{_KEYS})[_-]?key|(?:{_TOKENS})[_-]?token|authorization)(?:[_-]?(?:id|hash|\d{{1,3}}))?)"
)
"""A value after one of these is a credential."""
_OTHER_PASS = r"(?!(?:\w{1,40}[_-])?(?:first|second|third|last|low|high|band|one|two|single|forward|backward|multi|by)[_-]pass\b)"
_OTHER_TOKEN = (
    r"(?!(?:\w{1,40}[_-])?(?:pad|eos|bos|sep|cls|mask|unk|next|special|last|first|num|max|min|per|text|time|value|variable)[_-]token\b)"
)
WEAK = (
    rf"(?:{_OTHER_PASS}[\w.-]*[_-]pass|(?:[\w.-]*[_-])?pwd|{_OTHER_TOKEN}(?:[\w.-]*[_-])?token|auth"
    r"|[\w.-]*(?:credentials?|signature)|(?:[\w.-]*[_-])?session_?id)"
)
"""A value after one of these may be an ordinary word."""
IN_ADDRESS = (
    r"(?:sig|pw|pwd|pass|key|auth|bearer|jwt|code|sas|otp|pin|assertion|session(?:_?id)?"
    r"|[\w.-]*(?:token|secret|passw(?:or)?d|passphrase|signature|credential|(?:api|access|secret|subscription|functions?)[_-]?key))"
)
_OPEN = rf"(?:\w{{0,40}}\()?[bBuUrR]{{0,2}}{QUOTE}"
_END = r"(?=$|[\s'\"&;,)\]}<>\\`])"
_ORDINARY = (
    rf"(?!`|\$\(|(?:{_OPEN})?(?:null|none|nil|true|false|yes|no|on|off|str|string|bytes|bool|int|undefined|required|optional|disabled|enabled|kerberos"
    rf"|negotiate|\.\.\.|…|\*{{3,}}|<[\w -]{{1,40}}>|(?-i:\$\{{?[A-Z_][A-Z0-9_]*\}}?)){_END})"
)
"""Words of settings and of type annotations, placeholders and references to variables stay."""
_LIKELY = rf"(?!(?:{_OPEN})?(?:\d[\d.]*{_END}|/))(?=(?:{_OPEN})?[^\s'\"\[\]<>(){{}},;&\\]{{6}})(?![\w.]{{1,80}}\((?!{QUOTE}))"
"""After a weak name: no number, no path, no call, nothing in brackets, at least six characters."""
_WITH_DIGIT = rf"(?=(?:{_OPEN})?[^\s'\"(]{{0,80}}\d)"
"""After a weak name and a colon, as in a sentence, or an equals sign and a blank, as in a line of code."""

_MORE = r"[,;&](?!\s|$|['\"]|amp;|[\w.-]{1,40}\s?[=:])"
"""A separator that neither a blank nor another name follows is a part of the password."""
_WORD = rf"(?:[^\s'\"&;,<>)}}\]\\]|\\(?!\\{{0,6}}['\"])|{_MORE})+"
VALUE = (
    rf"(?:\w{{0,40}}\([^(),\n]{{1,400}},[^()\n]{{0,400}}\)|(?P<open>(?:\w{{1,40}}\()?[bBuUrR]{{0,2}}(?P<quote>{QUOTE}))(?!(?P=quote))"
    rf"(?:[^\n]{{1,4000}}?(?P<close>(?<!\\)(?P=quote))|[^\n]{{1,4000}})"
    rf"|[|>][+-]?\d?[ ]{{0,4}}\n[ \t]+[^\n]+(?:\n[ \t]+[^\n]+)*"
    rf"|\([^()\n]{{1,400}}\)|{_WORD})"
)
"""All arguments of a call or a tuple; in quotation marks to the closing one, also inside SecretStr('…'); a block of YAML; in brackets; or a
word."""
_STRENGTH = rf"(?=(?:{_OPEN})?[^\s'\"(]{{0,80}}\d)(?=(?:{_OPEN})?[^\s'\"(]{{0,80}}(?-i:[A-Z]))"
"""After `pass=` and `pw=`: a digit and a capital letter; `pass=3` may be anything."""
_BRACKETS = r"(?:\[\w{0,20}\]|\])?"
_ASSIGN = r"\s{0,8}(?:=>|:=|→|[=:])\s{0,8}"
_START = r"(?<![\w.-])"
_NO_PATH = rf"(?:(?<!/)|(?=[\w.-]+(?:{QUOTE})?\s?(?:=|:\S)))"
"""`/etc/passwd: not found` is about a file."""
ASSIGNED = re.compile(
    rf"(?i)(?P<before>{_START}{_NO_PATH}(?:{STRONG}{_BRACKETS}(?:{QUOTE})?{_ASSIGN}"
    rf"|{WEAK}{_BRACKETS}(?:{QUOTE}\s{{0,8}}[:=]\s{{0,8}}|=(?![\s>])|{_ASSIGN}{_WITH_DIGIT}){_LIKELY}"
    rf"|(?:pass|pw)(?:=|{QUOTE}\s{{0,8}}:\s{{0,8}}){_LIKELY}{_STRENGTH})){_ORDINARY}{VALUE}"
)
WITH_USER = re.compile(
    rf"(?i)({_START}(?:user(?:_?name)?|uid|usr|login)\s?[=:]\s?['\"]?[^\s'\",;=]{{1,100}}['\"]?[\s,;&]{{1,8}}(?:pass|pw|pin)\s?[=:]\s?['\"]?)"
    rf"{_ORDINARY}[^\s'\",;]{{4,400}}"
)
"""`user=ann pass=…`: after a user's name also a password of letters."""
PROPERTY = re.compile(rf"(?i)({_START}{HADOOP}\s{{1,8}})(?=\S{{8}})(?=\S{{0,200}}\d)[^\s'\"=:]\S{{7,}}")
"""A line of spark-defaults.conf, which has a blank between name and value."""
ATTRIBUTE = re.compile(
    rf"(?i)(<\w[^<>]{{0,200}}?\b(?:key|name)\s?=\s?{QUOTE}{STRONG}{QUOTE}\s[^<>]{{0,200}}?\bvalue\s?=\s?{QUOTE}){_ORDINARY}[^'\"<>]{{1,400}}"
)
"""`<add key="Password" value="…"/>`"""
KAGGLE = re.compile(
    rf"(?i)({QUOTE}username{QUOTE}\s{{0,8}}:\s{{0,8}}{QUOTE}[^'\"\n\\]{{1,100}}{QUOTE}\s{{0,8}},\s{{0,8}}{QUOTE}key{QUOTE}\s{{0,8}}:\s{{0,8}}{QUOTE})"
    rf"[\w-]{{16,}}"
)
"""`{"username": …, "key": …}`, a file of Kaggle's."""
ORACLE = re.compile(
    r"(?i)((?<![\w/.@-])(?:(?:sqlplus|sqlldr|expdp|impdp|rman)\s{1,8}(?:-\S{1,40}\s{1,8}){0,3}['\"]?[\w$#]{1,60}/(?=[^\s@/]{1,100}@)"
    r"|[\w$#]{1,60}/(?=[^\s@/]{1,100}@(?://|[\w.-]{1,100}:\d{4,5}/))))[^\s@/]{1,100}"
)
"""`sqlplus user/password@database`, and `user/password@host:1521/service`."""
PARAMETER = re.compile(
    rf"(?i)((?:[?&#;]|&amp;)(?:\w{{1,40}}\[)?{IN_ADDRESS}\]?=)(?!\*\*\*|…|\.\.\.)(?:[^\s&;#'\"<>]|&(?!amp;|[\w.\[\]-]{{1,40}}=|$|\s))+"
)
_FIELD = r"[\w-]{1,40}=(?:\\{0,7}\"[^\"\n]{0,400}\"|[^\s,'\"]{0,400})"
AUTHORIZED = re.compile(
    rf"(?i)(authorization(?:{QUOTE})?\s{{0,8}}[:=]\s{{0,8}})(?:basic|bearer|token|digest|negotiate|apikey|hmac|oauth|sharedkey|aws4-hmac-sha256|ntlm|gssapi|hawk|dpop"
    rf"|scram-sha-\d{{1,3}}|[a-z][\w-]{{1,30}}(?=\s{{1,8}}[\w.~+/=-]{{0,200}}\d)(?=\s{{1,8}}[\w.~+/=-]{{16}}))\s+"
    rf"(?:{_FIELD}(?:,\s{{0,8}}{_FIELD})*|[^\s'\"]+)"
)
COOKIE = re.compile(rf"(?i){_START}((?:set-)?cookie(?:{QUOTE})?\s{{0,8}}[:=]\s{{0,8}}(?:{QUOTE})?)(?=[\w.-]{{1,60}}=)[^\n'\"\\]+")
_NO_VALUE = (
    r"(?!-|(?:is|are|was|to|and|or|for|in|with|the|a|an|of|if|on|not|can|must|should|option|flag|argument|requires?|needs?|missing|given|has)\b"
    r"|(?-i:[A-Z_]{0,40}(?:KEY|TOKEN|PASSWORD|SECRET|TEXT|VALUE|STRING)\b))"
)
"""Words after the name of an option that is only mentioned."""
OPTION = re.compile(rf"(?i)(?P<before>(?<![\w-])--?(?:{STRONG}|pass|(?:[\w-]*-)?token)\s{{1,8}}{_NO_VALUE}){_ORDINARY}{VALUE}")
"""An option of a command line with its value after a blank."""
LOGIN = re.compile(
    r"(?i)((?<![\w-])(?:-u|--user|--proxy-user)(?:\s{1,8}|=)['\"]?(?P<name>[^\s:'\"/]{1,100}):(?!\d{1,10}\b|(?P=name)\b)"
    r"|\bsshpass\s{1,8}-p\s{0,8}|\blogin\s{1,8}\S{1,100}\s{1,8}password\s{1,8}"
    r"|\blogin\s{1,8}(?:(?!-p[\s=])\S{1,100}\s{1,8}){0,6}-p(?:\s{1,8}|=)['\"]?(?!-|\d{1,5}\b|(?-i:[A-Z_]{1,40})\b)"
    r"|\b(?:mysql|mariadb)\w{0,10}\s{1,8}(?:(?!-p)\S{1,100}\s{1,8}){0,6}-p(?![\s-]|ort\b|assword)['\"]?"
    r"|\b(?:wandb|weave|comet|neptune)\s{1,8}login\s{1,8}(?:--\S{1,60}\s{1,8}){0,4}(?=[\w-]{0,200}\d)(?=[\w-]{20}))[^\s'\"]+"
)
"""`curl -u user:password`, a line of .netrc, `docker login -p password`, `mysql -ppassword`, `wandb login key`."""

ELEMENT = re.compile(rf"(?i)(<(?:\w{{1,40}}:)?{STRONG}(?:\s[^<>]{{0,200}})?>\s{{0,8}}){_ORDINARY}(?!\s)[^<>]{{1,4000}}(?=</)")
"""An element of XML."""
LOGIN_CALL = re.compile(
    rf"(?i)(\b(?:\w{{0,40}}(?:basic|digest|ntlm)_?auth\w{{0,10}}\(|(?:\w{{1,40}}_)?auth(?:{QUOTE})?\s{{0,8}}[=:]\s{{0,8}}[(\[]|(?:\w{{1,40}}_)?login\()"
    rf"\s{{0,8}}[bu]?{QUOTE}[^'\"\n]{{0,200}}{QUOTE}\s{{0,8}},\s{{0,8}}[bu]?{QUOTE})[^'\"\n]{{1,400}}"
)
"""`HTTPBasicAuth('user', 'password')`, `auth=('user', 'password')` and `login('user', 'password')`."""

# Tokens ------------------------------------------------------------------------------------------------------------------------------

_PREFIXED = {
    r"(?:AKIA|ASIA)": r"[A-Z0-9]{16}",
    r"(?:hf|gh[pousr]|npm|gsk|r8|dop_v1|shp(?:at|ss)|lin_api|glsa)_": r"[A-Za-z0-9]{20,}",
    r"(?:github|dckr)_pat_": r"[\w-]{20,}",
    r"gl(?:pat|dt|rt|ptt|ft|cbt)-": r"[\w-]{16,}",
    r"(?:xox[abeprs]|xapp)-": r"[\w-]{10,}",
    r"AIza": r"[\w-]{30,}",
    r"ya29\.": r"[\w-]{16,}",
    r"GOCSPX-": r"[\w-]{16,}",
    r"dapi": r"[0-9a-f]{32}",
    r"sk-(?:ant|proj|svcacct|admin|or|lf)-": r"(?=[\w-]{0,80}\d)[\w-]{16,}",
    r"sk-": r"(?=[A-Za-z0-9]{0,80}\d)[A-Za-z0-9]{16,}",
    r"(?:[sr]k_(?:live|test)|whsec)_": r"\w{16,}",
    r"(?:nvapi|xai|pplx|sq0(?:csp|atp|idp))-": r"(?=[\w-]{0,80}\d)[\w-]{20,}",
    r"pypi-AgE": r"[\w-]{16,}",
    r"hv[sb]\.": r"[\w-]{20,}",
    r"SG\.": r"[\w-]{16,}\.[\w-]{16,}",
    r"AGE-SECRET-KEY-1": r"[A-Z0-9]{20,}",
    r"figd_": r"(?=[\w-]{0,80}\d)[\w-]{20,}",
    r"sbp_": r"[0-9a-f]{40}",
    r"tvly-": r"(?=[\w-]{0,80}\d)[\w-]{16,}",
    r"PMAK-": r"[\w-]{20,}",
    r"pat-(?:na|eu|ap)\d-": r"[\w-]{16,}",
    r"dp\.(?:pt|st|ct|sa|scim|audit)\.": r"(?:[\w-]{1,40}\.)?[A-Za-z0-9]{20,}",
    r"GOOG1": r"[A-Z0-9]{20,}",
    r"ops_eyJ": r"[\w-]{20,}",
    r"api_org_": r"[A-Za-z0-9]{20,}",
    r"ATATT3x": r"[\w=-]{20,}",
    r"tskey-(?:auth|api|client|scim|webhook)-": r"[\w-]{10,}",
    r"eyJ": r"[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+",
}
"""How the token of a provider begins -> what follows. A word of hyphens without a long part (`sk-model-v2`) is a name."""
_KEY_BLOCK = r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\Z)"
TOKEN = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(begin + rest for begin, rest in _PREFIXED.items())})|{_KEY_BLOCK}")
SECRET_PATH = re.compile(
    r"(hooks\.slack(?:-gov)?\.com\\{0,7}/(?:services|workflows|triggers)\\{0,7}/|discord(?:app)?\.com/api/webhooks/|api\.telegram\.org/bot"
    r"|webhook\.office\.com\\{0,7}/webhookb2\\{0,7}/|hooks\.zapier\.com\\{0,7}/hooks\\{0,7}/catch\\{0,7}/)"
    r"(?!\*\*\*)[\w:+@\\/-]{8,}"
)
"""Addresses whose path alone admits."""
BEARER = re.compile(
    r"(?i)(?<![\w-])(?:(bearer\s{1,8})(?=[\w~+/-]{0,80}[\d~+])[\w.~+/-]{12,}={0,2}|(basic\s{1,8})[A-Za-z0-9+/]{8,400}={1,2}(?![\w=]))"
)
NAMED = re.compile(
    rf"\s*(?:(?i:bearer|basic)\s+(?=\S*[\d=+/]|\S+[A-Z])\S{{6,}}$|(?i:(?:pass|pwd|pw|pin|otp)\s*[:=]\s*{_ORDINARY}\S{{4,}})"
    r"|(?i:token|key|auth)\s*[:=]\s*(?=\S*\d|\S+[A-Z])(?![\d.]+$)\S{4,})"
)
"""A whole setting that is a password with its name before it; in a sentence `pass: 12` may be anything."""

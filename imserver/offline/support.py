"""``imserver support``: one file for whoever helps, without secrets, names and
messages."""

import ast
import json
import os
import platform
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from http.client import OK, HTTPConnection, HTTPException
from importlib.metadata import distributions
from pathlib import Path
from time import gmtime, strftime
from typing import Any, Final

import click

from imserver.gateway.config.declared import HIDDEN, plain
from imserver.gateway.config.load import ENVIRONMENT_KEY, ENVIRONMENT_PREFIX, dump
from imserver.gateway.config.settings import Config
from imserver.gateway.errors import StartError
from imserver.gateway.feature import FeatureRow
from imserver.gateway.node.feature_list import declarations_of, load_features
from imserver.gateway.offline import host_of, load_settings, settings_options
from imserver.gateway.terminal import fail
from imserver.offline.doctor import findings
from imserver.plugin.progress import long_work
from imserver.version import full_version

LOG_BYTES: Final = 2 << 20
"""How much of the end of the log is read."""
ASK_SECONDS: Final = 5.0
"""Time limit of the question to the running server."""
LEAST_SECRET: Final = 6
"""The least length of a secret that is searched in texts. A shorter one is part
of many words."""
_PACKAGE: Final = Path(__file__).parents[1]
_MAIL: Final = re.compile(r"[^\s<>\"'@=:,;/]+@[^\s<>\"'@,;/]+\.[a-z]{2,}")
_PHONE: Final = re.compile(r"\+\d[\d ()-]{6,}\d")
_TEXT_LINE: Final = re.compile(
    r"(\S+ (?:DEBUG|INFO|WARNING|ERROR|CRITICAL) +[\w.]+: )(.*)"
)
_FRAME: Final = re.compile(
    r'^\s+File "(?:.*/)?((?:imserver|site-packages|lib)[\w./-]*)", line \d+, in \w+$'
)
_RAISED: Final = re.compile(
    r"^[\w.]*(?:Error|Exception|Exit|Interrupt|Timeout|Unavailable)\b"
)
_ELIDED: Final = "…"
"""Stands in place of text that may be about somebody."""


# --- the log without names and messages ---------------------------------------


_LEVELS: Final = frozenset(
    {"debug", "info", "warning", "error", "exception", "critical"}
)


@cache
def log_forms() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Return the forms of the server's own log lines, each as (pattern, text).

    The text is the argument of the logger, such as ``an erasure in %s has
    ended``. The pattern matches a line that was made from it. Its groups are
    the numbers, which may be shown. Texts (``%s``) may be about somebody, so
    they have no group.
    """
    texts: set[str] = set()
    for path in _PACKAGE.rglob("*.py"):
        texts.update(_texts_in(path))
    forms = []
    # A short form may also match a line of a longer one.
    for text in sorted(texts, key=len, reverse=True):
        pieces = re.split(r"(%[-+ #0-9.]*[sdrfgx%])", text)
        pattern = "".join(map(_pattern_of, pieces))
        forms.append((re.compile(pattern, re.DOTALL), text))
    return tuple(forms)


def _texts_in(module: Path) -> Iterator[str]:
    """Yield the first arguments of the calls of loggers in a module.

    They are read from the source, because a message has no other list.
    """
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        function = node.func
        if not (isinstance(function, ast.Attribute) and function.attr in _LEVELS):
            continue
        text = node.args[0]
        if not (isinstance(text, ast.Constant) and isinstance(text.value, str)):
            continue
        # A word alone may be the argument of another method with such a name.
        if " " in text.value:
            yield text.value


def _pattern_of(piece: str) -> str:
    """Return the regular expression for a piece of a text.

    The piece is a placeholder such as ``%s`` or ``%.2f``, or the words between
    two of them.
    """
    if piece == "%%":
        return "%"
    if not piece.startswith("%"):
        return re.escape(piece)
    if piece[-1] in "dfgx":
        return r"(-?[\d.]+)"
    return r"(?:.*?)"


def redacted_line(line: str) -> str:
    """Return a line of the log with only what the server wrote itself.

    ``line``: in the text or JSON format, or a line of a traceback.
    """
    if line.startswith("{"):
        return _redacted_json(line)
    match = _TEXT_LINE.match(line)
    if match is not None:
        return match[1] + redacted_message(match[2])
    return _redacted_traceback(line)


def _redacted_traceback(line: str) -> str:
    """Return a line of a traceback, redacted as :func:`redacted_line` does."""
    frame = _FRAME.match(line)
    if frame is not None:
        # Only the part of the path below the folder of the installation.
        _, path, _ = line.split('"', 2)
        return frame[0].replace(path, frame[1])
    exception = _RAISED.match(line)
    if exception is not None:
        return f"{exception[0]}: {_ELIDED}"
    return _ELIDED


def _redacted_json(line: str) -> str:
    """Return a line in the JSON format, redacted as :func:`redacted_line` does.

    Only the time, the level and the name of the logger stay as they are.
    """
    try:
        record = json.loads(line)
    except ValueError:
        return _ELIDED
    fields = {
        name: record[name]
        for name in ("time", "level", "logger")
        if isinstance(record.get(name), str)
    }
    # It is JSON of another program.
    if not fields:
        return _ELIDED
    fields["message"] = redacted_message(str(record.get("message", "")))
    traceback = record.get("traceback")
    if traceback:
        fields["traceback"] = "\n".join(map(redacted_line, str(traceback).split("\n")))
    return json.dumps(fields, ensure_ascii=False)


def redacted_message(message: str) -> str:
    """Return a message of the log without names and texts.

    If the server does not have this message, the result is only its length.
    """
    for pattern, text in log_forms():
        match = pattern.fullmatch(message)
        if match is not None:
            return _filled(text, iter(match.groups()))
    return f"({len(message)} characters)"


def _filled(text: str, numbers: Iterator[str]) -> str:
    """Return the text of a log line with its placeholders filled.

    ``numbers`` take the places of numbers; :data:`_ELIDED` takes all others.
    """

    def shown(form: re.Match[str]) -> str:
        """Return what stands in place of one placeholder."""
        if form[1] in "dfgx":
            return next(numbers)
        return _ELIDED

    return re.sub(r"%[-+ #0-9.]*([sdrfgx])", shown, text)


# --- the parts ----------------------------------------------------------------


def secrets_of(settings: Config) -> set[str]:
    """Return all secrets of the settings, the data folder and the environment.

    Short ones are left out, because they would be found in ordinary words.
    """
    secrets = set(_hidden(plain(settings), plain(settings, hide=True)))
    secrets.add(os.environ.get(ENVIRONMENT_KEY, ""))
    server = settings.server
    default = str(Path(server.data_dir, "secret"))
    for file in (default, server.secret_file, server.second_secret_file):
        secrets.add(_read_secret(file))
    return {secret for secret in secrets if len(secret) >= LEAST_SECRET}


def _hidden(value: Any, shown: Any) -> Iterator[str]:
    """Yield the secret texts in ``value``.

    ``shown``: the form of the value in which :data:`HIDDEN` stands in place of
    each secret.
    """
    if shown == HIDDEN:
        yield str(value)
    elif isinstance(value, Mapping) and isinstance(shown, Mapping):
        for key in value:
            yield from _hidden(value[key], shown.get(key))
    elif isinstance(value, list) and isinstance(shown, list):
        # Both have the same form, except where a secret is hidden.
        for each, other in zip(value, shown, strict=False):
            yield from _hidden(each, other)


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Return a text without secrets, e-mail addresses and phone numbers."""
    # Long secrets come first, because a short one may be a part of them.
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _PHONE.sub("(phone)", _MAIL.sub("(e-mail)", text))


def _versions() -> str:
    """Return the versions of the server, the system and all packages.

    The names of variables are listed, too.
    """
    packages = {f"{each.metadata['Name']} {each.version}" for each in distributions()}
    # The values may be secrets.
    names = sorted(name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX))
    lines = [
        f"imserver {full_version()}",
        f"Python {sys.version}",
        platform.platform(),
        "",
        *sorted(packages),
        "",
        "Variables of the environment, without values:",
        *names,
        "",
    ]
    return "\n".join(lines)


def _doctor(settings: Config) -> str:
    """Return the findings of ``imserver doctor`` as text.

    They are in the form that the command prints.
    """
    lines = []
    for each in findings(settings):
        lines.append(f"{each.level:4}  {each.name}: {each.found}")
        lines += [f"      {text}" for text in (each.meaning, each.mend) if text]
    return "\n".join([*lines, ""])


def _log(settings: Config) -> str:
    """Return the end of the log file, redacted.

    If it cannot be read, a sentence says why.
    """
    path = settings.app.log_file
    if not path:
        return "app.log_file is not set, so the log is in the console, in systemd or in the container\n"
    try:
        lines = _last_lines(path)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}\n"
    if len(lines) > 1:
        del lines[0]  # its beginning may be cut off
    return "\n".join([*map(redacted_line, lines), ""])


_MAY_READ: Final = frozenset({"admin", "read", "metrics"})
"""The scopes of keys that may read the metrics."""


def _last_lines(path: str) -> list[str]:
    """Read the lines at the end of a file. Raises OSError."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LOG_BYTES))
        return file.read().decode("utf-8", "replace").splitlines()


def _metrics(settings: Config) -> str:
    """Return the metrics of the running server.

    If it does not answer with them, a sentence says why.
    """
    key = _key_for_metrics(settings)
    headers = {}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    connection = HTTPConnection(
        host_of(settings), settings.app.http_port or None, timeout=ASK_SECONDS
    )
    try:
        return _get_metrics(connection, headers)
    except (OSError, HTTPException) as error:
        return f"the server does not answer: {type(error).__name__}\n"
    finally:
        connection.close()


def _write(file: Path, parts: Mapping[str, str], secrets: Iterable[str]) -> None:
    """Write the archive, without the secrets. Only its owner may read it.

    ``parts``: name of a file → its text. Raises OSError.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with (
        os.fdopen(descriptor, "wb") as target,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, text in parts.items():
            archive.writestr(name, redacted(text, secrets))


def _get_metrics(connection: HTTPConnection, headers: dict[str, str]) -> str:
    """Ask for the metrics. Raises OSError and HTTPException."""
    connection.request("GET", "/metrics", headers=headers)
    answer = connection.getresponse()
    content = answer.read().decode("utf-8", "replace")
    if answer.status == OK:
        return content
    return f"the server answers with status {answer.status}\n"


def _key_for_metrics(settings: Config) -> str:
    """Return an API key that may read metrics, or ``""``.

    The variable of the environment comes first, and then the first key of the
    settings that suffices.
    """
    key = os.environ.get(ENVIRONMENT_KEY, "")
    for row in settings.api.keys:
        if not key and not _MAY_READ.isdisjoint(row.scopes):
            key = row.key
    return key


@click.command()
@settings_options
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@long_work("collecting")
def support(path: str | None, data_dir: str | None, file: Path | None) -> None:
    """Write one file for people who help you: settings, versions, checks, log
    and metrics.

    FILE is a new zip archive, by default imserver-support-TIME.zip. The archive
    has no secrets, no messages and no names of users. Of the log, it has only
    the texts of the server itself. The archive has names of apps, hosts and
    folders, so read it before you send it.
    """
    try:
        settings = load_settings(path, data_dir)
        features = load_features(settings)
    except StartError as error:
        fail(error)
    file = file or Path(strftime("imserver-support-%Y%m%dT%H%M%SZ.zip", gmtime()))
    if file.exists():
        fail(f"{file} exists already")
    # The secrets are removed from all parts together, when they are written.
    parts = _parts_of(settings, features)
    try:
        _write(file, parts, secrets_of(settings))
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}")
    click.echo(f"wrote {file}: {', '.join(parts)}; read it before you send it")


def _parts_of(settings: Config, features: Sequence[FeatureRow]) -> dict[str, str]:
    """Return name → text of the parts of the archive, with their secrets."""
    return {
        "settings.yaml": dump(settings, declarations_of(features)),
        "versions.txt": _versions(),
        "doctor.txt": _doctor(settings),
        "log.txt": _log(settings),
        "metrics.txt": _metrics(settings),
    }


def _read_secret(file: str) -> str:
    """Read the secret in a file.

    The result is ``""`` if ``file`` is empty or does not exist, or if this user
    may not read it.
    """
    if not file:
        return ""
    try:
        return Path(file).read_text(encoding="latin-1").strip()
    except OSError:
        return ""

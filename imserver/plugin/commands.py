"""The face: commands of ``imserver``, which no node imports."""

from collections.abc import Collection, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Literal
from urllib.parse import urlencode, urlsplit

import click
import msgspec
from msgspec import Struct

from imserver.gateway.config.settings import Config
from imserver.gateway.config.yaml import read_yaml as read_yaml
from imserver.gateway.config.yaml import write_yaml as _write_yaml
from imserver.gateway.errors import StartError
from imserver.gateway.notify import PushService
from imserver.gateway.offline import load_settings, url_of
from imserver.gateway.offline import offline_parts as offline_parts
from imserver.gateway.offline import opened as opened
from imserver.gateway.offline import record_act as record_act
from imserver.gateway.offline import settings_options as settings_options
from imserver.gateway.process import DataDirectory
from imserver.gateway.terminal import (
    Command,
    person_of,
    read_key,
    request_json,
    server_address,
)
from imserver.gateway.terminal import CommandLine as CommandLine
from imserver.gateway.terminal import fail as fail
from imserver.gateway.terminal import table as _table
from imserver.gateway.transport.proxies import is_here


class Finding(Struct, frozen=True):
    """The result of one check of ``imserver doctor``.

    ``found`` is the state that was found, ``meaning`` what follows from it, and
    ``mend`` how to mend it. The last two are empty if there is nothing to do.
    """

    level: Literal["ok", "warn", "fail"]
    name: str
    found: str
    meaning: str = ""
    mend: str = ""


def _source_of_key(key_file: str | None, named_key: str) -> str:
    """Say where the key of a command comes from.

    ``named_key`` is the key of the file or of the environment; ``""``: neither
    has one.
    """
    if key_file:
        return "--key-file"
    if named_key:
        return "IMSERVER_KEY"
    return "the settings"


class ServerApi:
    """``/api/v1`` of a running server, for commands. An error ends the command,
    with one line.

    ``url``: the address of the server's HTTP port (``""``: the port in the
    settings). ``key_file``: see :func:`read_key`. Without a key, a server on
    this machine gets the key of the settings.
    """

    def __init__(self, url: str, key_file: str | None) -> None:
        """Find out the address of the server, and the key for it.

        ``url`` is the address (``""``: that of the settings). ``key_file`` is a
        file with the key, or None. Ends the command if the settings are wrong.
        """
        settings = None
        if not url:
            settings = _settings()
            url = url_of(settings)
        self._url = server_address(url)

        named_key = read_key(key_file)
        self._key = named_key
        if not named_key:
            # A key of the settings is for the server that they describe, and
            # for no other machine.
            host = urlsplit(self._url).hostname or "localhost"
            if settings is None and is_here(host):
                settings = _settings()
            if settings is not None:
                self._key = _key_of(settings)

        self._key_source = _source_of_key(key_file, named_key)
        """Where the key comes from, for texts of errors."""

    @staticmethod
    def options(command: Command) -> Command:
        """Decorate a command with the options that say which server is meant.

        They are ``--url`` and ``--key-file``, and ``-c`` for the settings that
        have both. Its function gets the first two.
        """
        config_option = click.option(
            "-c",
            "--config",
            "path",
            expose_value=False,
            callback=_remember_path,
            metavar="FILE",
            help="The settings file; see imserver serve.",
        )
        key_option = click.option(
            "--key-file",
            metavar="FILE",
            help="File with an API key that has the scope admin, or - for standard input.",
        )
        url_option = click.option(
            "--url",
            default="",
            metavar="URL",
            help="The URL of the server's HTTP port. Default: the port in the settings.",
        )

        # Some commands have an option for the settings already.
        parameters = getattr(command, "__click_params__", ())
        if all(parameter.name != "path" for parameter in parameters):
            command = config_option(command)
        return url_option(key_option(command))

    @staticmethod
    def person(words: Sequence[str], expected: str = "APP/USER") -> tuple[str, str]:
        """Read the app and the user of a person: ``APP/USER``.

        Two words are the deprecated form. ``expected`` are the arguments of the
        command, for its error.
        """
        return person_of(words, expected)

    def ask(
        self, method: str, path: str, body: bytes = b"", seconds: float = 30
    ) -> tuple[int, Any]:
        """Send any request. Returns the status and the JSON of its answer."""
        return request_json(self._url, method, path, self._key, body, seconds)

    def get(
        self, path: str, query: Mapping[str, str], absent: Collection[str] = ()
    ) -> Any:
        """Return the answer to ``GET /api/v1/{path}``.

        Parameters that are empty are left out. ``absent`` are codes of
        problems: if the answer is such a problem, the result is None.
        """
        parameters = {name: value for name, value in query.items() if value}
        path_and_query = f"{path}?{urlencode(parameters)}"
        return self._call("GET", path_and_query, body=b"", absent=absent)

    def whom(self, app: str, named: str) -> tuple[str, str]:
        """Find a user by a name that somebody has typed.

        Returns the id of the user, and the text with which a command shows the
        user. If all users of the app are accounts, ``named`` is the id, the
        name, the e-mail address or the phone number of an account. If there is
        no such account, the command ends. In other apps ``named`` is the id of
        a user.
        """
        page = self.get(
            "accounts/list", {"app": app, "login": named}, ("not_allowed", "not_found")
        )
        if page is None:
            # The users of this app are no accounts.
            return named, f"user {named}"
        if not (named and page["accounts"]):
            fail(f"app {app} has no account {named}, so nothing was done")

        (account,) = page["accounts"]
        return account["user"], _shown_account(account)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the answer to ``POST /api/v1/{path}``."""
        return self._call("POST", path, msgspec.json.encode(body))

    def _call(
        self, method: str, path: str, body: bytes, absent: Collection[str] = ()
    ) -> Any:
        """Send a request to ``/api/v1/{path}``, and return its answer.

        A problem ends the command. For a problem whose code is in ``absent``,
        the result is None.
        """
        status, answer = self.ask(method, f"/api/v1/{path}", body)
        if status < HTTPStatus.BAD_REQUEST:
            return answer

        # A proxy may answer with something else than a problem.
        problem = answer if isinstance(answer, dict) else {}
        code = problem.get("code", f"HTTP {status}")
        if code not in absent:
            message = self._explain(status, code, problem.get("message", ""))
            fail(f"{code}: {message}".rstrip(": "))
        return None

    def _explain(self, status: int, code: str, message: str) -> str:
        """Return the text of a problem for the person at the command line.

        If the key may be the cause, the text says where the key comes from.
        """
        if status == HTTPStatus.UNAUTHORIZED and not self._key:
            return "the server requires an API key: set IMSERVER_KEY, or use --key-file"
        if status == HTTPStatus.UNAUTHORIZED:
            return (
                f"the server does not know the key of {self._key_source}, or the key has expired; "
                "all nodes know a new key after two seconds"
            )
        if code == "forbidden":
            return f"{message} (the key of {self._key_source})"
        return message


def _shown_account(account: Mapping[str, Any]) -> str:
    """Return the text with which a command shows an account: its name, or
    another identifier, and its id."""
    user = account["user"]
    for identifier in ("name", "email", "phone"):
        if account.get(identifier):
            return f"{account[identifier]} ({user})"
    return f"user {user}"


def _remember_path(
    context: click.Context, _option: click.Parameter, path: str | None
) -> None:
    """Remember the value of ``--config`` for :func:`_settings`."""
    context.meta[__name__] = path


def _settings() -> Config:
    """Load the settings that the command names, or the settings of this folder.

    Invalid settings end the command, because the defaults would name another
    server.
    """
    context = click.get_current_context()
    path = context.params.get("path", context.meta.get(__name__))
    try:
        return load_settings(path, None)
    except StartError as error:
        fail(error)


def _key_of(settings: Config) -> str:
    """Return the first key of the settings that may do everything in all apps.

    It is ``""`` if the settings have no such key.
    """
    for key in settings.api.keys:
        if "admin" in key.scopes and not key.apps:
            return key.key
    return ""


def key_for(settings: Config, purpose: str) -> bytes:
    """Derive the key for one purpose from the secret of the settings.

    The nodes of these settings derive the same key. Raises StartError.
    """
    folder = DataDirectory(settings.server.data_dir)
    return folder.secrets(settings.server).keys(purpose)[0]


def _push_services_of(settings: Config, tenants: Any) -> tuple[PushService, ...]:
    """Make the push services of the features, as version 3 did."""
    with offline_parts(settings, tenants._store, PushService) as parts:  # type: ignore[type-abstract]
        return tuple(service for _, service in parts)  # which the caller closes


_OF_BEFORE: Final[Mapping[str, tuple[Any, str]]] = {
    "push_services_of": (_push_services_of, "use offline_parts"),
    "table": (_table, "use CommandLine.rows"),
    "write_yaml": (_write_yaml, "use CommandLine.yaml"),
}
"""Name of an earlier version, until 2.0 → its form, and the advice for its
users."""


def __getattr__(name: str) -> Any:
    """Return a name of an earlier version, with a warning."""
    if name not in _OF_BEFORE:
        raise AttributeError(name)
    from imserver.plugin import deprecated

    form, instead = _OF_BEFORE[name]
    deprecated.warn(f"{__name__}.{name} is deprecated: {instead}")
    return form

"""Rows of every table of the server, archive from the tables as data: so a new
table has rows here, too."""

import json
import re
from itertools import count
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from sqlalchemy import inspect

from imserver.gateway.auth.tenants import Tenants
from imserver.gateway.config.settings import Config, ServerSettings, StorageSettings
from imserver.gateway.node.feature_list import (
    load_features,
    objection_of,
    tables_of,
    tables_of_server,
)
from imserver.gateway.offline import offline_parts
from imserver.gateway.storage.contract import ArchivedFiles
from imserver.gateway.storage.statements import PooledStatements
from imserver.gateway.storage.store import Store
from imserver.gateway.storage.tables import OF_LOGS, Table
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.operate.exports.contents import ArchiveMaker, Proceed
from imserver.operate.exports.rows import Subject

OF_ONE = re.compile(r'"?(\w+)"? = %s').fullmatch
SPECIAL: dict[str, dict[str, Any]] = {
    # a group; an entry that is a message, whose conversation is the first
    "conversation": {"kind": 1, "pair": None, "options": 0, "bots": None},
    "message": {"kind": 0, "type": "text", "meta": b"", "resend": None, "time_ms": 1},
    "membership": {"left_id": None, "role": "member", "bot": 0, "readable_after": None},
    "account": {"bot": 0, "guest": 0},
    "upload": {"place": ""},
    "log": {"part": 0, "lost": None, "floor": 0, "last_id": 1 << 30},
}


def fill(store: Store, app: str, users: list[str], first: int = 1) -> None:
    """Store a row of each user in each table of the server; in those of no
    user, one of the app. Texts that are no ids say whose they are. ``first``:
    the first number."""
    numbers = count(first)

    def work(sql: PooledStatements) -> None:
        columns = inspect(sql.connection).get_columns
        tables = sorted(
            tables_of_server(), key=lambda table: table.name not in ("log", "account")
        )
        for table in tables:
            if not isinstance(table.of_app, str) and not table.stays:
                continue
            of_user = OF_ONE(table.of_user) if isinstance(table.of_user, str) else None
            for user in users if of_user else users[:1]:
                number = next(numbers)
                row: dict[str, Any] = {}
                for column in columns(table.name):
                    kind = column["type"].python_type
                    text = f"{number} of {user}"[
                        : getattr(column["type"], "length", None)
                    ]
                    text = text.replace(" ", "-") if column["name"] == "id" else text
                    row[column["name"]] = (
                        number
                        if kind is int
                        else text.encode()
                        if kind is bytes
                        else text
                    )
                row |= SPECIAL.get(table.name, {})
                if "member" in row and isinstance(row["member"], str | bytes):
                    row["member"] = user
                if "account" in row:
                    row["account"] = int(user)
                row |= dict.fromkeys(table.parents, int(user))
                row |= {"app": app} if "app" in row else {}
                if table.of_app == OF_LOGS:
                    row["log"] = sql.query(
                        "SELECT number FROM log WHERE app = %s", (app,)
                    )[0][0]
                if of_user:
                    forms = {"account": int(user), "bytes": user.encode(), "text": user}
                    row[of_user[1]] = forms[table.user_as]
                names = ", ".join(f'"{name}"' for name in row)
                marks = ", ".join(["%s"] * len(row))
                sql.execute(
                    f"INSERT INTO {table.name} ({names}) VALUES ({marks})",
                    tuple(row.values()),
                )

    store.write(work)


class Storage:
    """A server without a node: a store, its settings and its apps."""

    def __init__(self, url: str, folder: Path) -> None:
        self.config = Config(
            server=ServerSettings(data_dir=str(folder)),
            storage=StorageSettings(url, seconds=60),
        )
        features = load_features(self.config)
        tables = tables_of(features)
        self.store = Store(
            self.config.storage, str(folder), threaded=False, tables=tables
        )
        self.store.start()
        self.tenants = Tenants(self.config, self.store, None, objection_of(features))
        self.folder = folder

    def export(
        self,
        app: str,
        user: str = "",
        proceed: Proceed = lambda _: None,
        name: str = "archive",
    ) -> Path:
        """Make an archive."""
        settings, left_out = ({}, []) if user else self.tenants.described(app)
        subject = Subject(app, user, settings, left_out)
        folder = self.folder / name
        with offline_parts(self.config, self.store, ArchivedFiles) as parts:
            archived = [each for _, each in parts]
            maker = ArchiveMaker(
                archived,
                self.store,
                subject,
                folder,
                lambda function, *rest: function(*rest),
                "1",
            )
            return maker.make(proceed)


def messages(store: Store, number: int) -> None:
    """Store messages of ann."""
    drafts = [
        Draft(sender="ann", to_user=f"u{each % 20}", body=f"m{each}".encode())
        for each in range(number)
    ]
    for start in range(0, number, 1000):
        store.part(MessageLog).writer.append("shop", drafts[start : start + 1000])


def content_of(archive: Path) -> dict[str, bytes]:
    with ZipFile(archive) as file:
        return {name: file.read(name) for name in file.namelist()}


def tables_in(archive: Path) -> dict[str, list[dict[str, Any]]]:
    """Table → its rows in an archive."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, content in content_of(archive).items():
        if name.startswith("rows/"):
            found.setdefault(name.split("/")[1], []).extend(
                map(json.loads, content.splitlines())
            )
    return found


def exported_of_app() -> dict[str, Table]:
    """The tables of which an export of an app has rows."""
    return {table.name: table for table in tables_of_server() if table.exported}

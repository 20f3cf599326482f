"""Finds what a text may name: people, connections, channels, groups, apps, keys, requests.

Each kind of thing has a function that searches it. Those of features that a node does not have are not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from time import time
from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import Struct

from imserver.plugin.http import about, view
from imserver.plugin.identity import Principal
from imserver.plugin.services import Core
from imserver.plugin.storage import Statements, Store

if TYPE_CHECKING:
    from imserver.features.accounts.rows import AccountStore
    from imserver.features.refusals.limits import Refusals
    from imserver.plugin.messages import MessageLog


MOST_SESSIONS: Final = 1000
"""Sessions of one page: a user may have many."""


class LiveConnection(Struct, frozen=True, array_like=True):
    """A connection that its id has named: in which app it is, and for whom."""

    app: str
    user: str
    dialect: str
    node: str


class ListedConnection(Struct):
    """A connection that is logged in."""

    connection: Annotated[str, about("Its id.")]
    user: str
    device: Annotated[str, about("The name that the client gave its device; empty: none.")]
    dialect: str
    since: Annotated[int, about("When the session began, in Unix seconds.")]
    peer: Annotated[str, about("The remote address and port.")]
    node: Annotated[str, about("The node that holds the connection.")]
    channels: Annotated[int, about("The number of its channels.")]


class ConnectionPage(Struct, frozen=True):
    """The sessions of some users, in the order of their names. ``total`` counts the users online; ``users``:
    those of the page, and the one behind them if there is one."""

    total: int
    users: list[str]
    connections: list[ListedConnection]
    missing: list[str]


class LiveConnections:
    """Reads connections off the nodes that hold them. Calls switch."""

    def __init__(self, core: Core) -> None:
        self._core = core
        core.cluster.queries.add("admin.connection", str, self._find_here)

    def find(self, connection_id: str) -> LiveConnection | None:
        """The connection with this id; None: there is none, or its node does not answer."""
        answer: LiveConnection | None = self._core.sessions.connections.query(
            connection_id, "admin.connection", connection_id, LiveConnection | None
        )
        return answer

    def _find_here(self, connection_id: str) -> LiveConnection | None:
        table = self._core.sessions.table
        address = table.ids.read(connection_id)
        connection = None if address is None else table.at(address.number)
        if connection is None or connection.app is None:
            return None
        node = self._core.cluster.registry.lease.node
        return LiveConnection(connection.app, connection.user or "", connection.encoding.dialect.name, node)

    def of_user(self, app: str, user: str) -> ConnectionPage:
        """All sessions of a user."""
        connections, missing = self._sessions(app, [user])
        return ConnectionPage(int(bool(connections)), [user], connections, missing)

    def page(self, app: str, after: str | None, limit: int) -> ConnectionPage:
        """The sessions of at most ``limit`` users of an app, behind one."""
        page = self._core.sessions.presence.page(app, after, limit + 1)
        users = sorted(page.users)
        connections, missing = self._sessions(app, users[:limit])
        missing = list(dict.fromkeys([*page.missing, *missing]))
        return ConnectionPage(page.total, users, connections, missing)

    def _sessions(self, app: str, users: list[str]) -> tuple[list[ListedConnection], list[str]]:
        services = self._core.sessions
        found = services.presence.sessions(app, users)
        ids = [session.connection for sessions in found.sessions for session in sessions][:MOST_SESSIONS]
        infos = services.connections.about(app, ids)
        listed = [view(ListedConnection, each, channels=len(each.channels)) for each in infos if each]
        return listed, list(found.missing)


Kind = Literal["account", "user", "connection", "channel", "group", "app", "key", "request"]
MOST_APPS: Final = 1000
"""Apps that are searched."""
MOST_DETAILED_APPS: Final = 20
"""Apps whose channels, groups and nicknames are searched, if the request names none."""
_SEARCHED: Final = 50_000
"""Accounts whose names are searched: the newest."""
_MOST_ID: Final = 2**63


class HitShown(Struct):
    """Something that the text may name."""

    type: Annotated[Kind, about("What it is.")]
    id: Annotated[str, about("Its id.")]
    app: Annotated[str, about("Its app. Of a key: the apps to which it is limited, with commas between.")]
    label: Annotated[str, about("Its name, or else its id.")]
    detail: Annotated[str, about("What else helps to recognise it.")]


class TextQuestion(Struct, frozen=True):
    """What is searched. ``apps``: resolved names that the principal reaches. ``limit``: of each kind."""

    text: str
    apps: Sequence[str]
    limit: int
    principal: Principal

    def may(self, right: str) -> bool:
        """Whether a back end asks, or an account whose role has this right."""
        return self.principal.kind != "staff" or right in self.principal.rights


Search = Callable[[TextQuestion], Iterable[HitShown]]


class Finder:
    """Searches every kind of thing that the node has. Calls switch."""

    def __init__(self, core: Core, live: LiveConnections) -> None:
        self._core = core
        self._live = live
        self._searches: list[Search] = [
            self._apps,
            self._users,
            self._connections,
            self._channels,
            self._keys,
        ]
        if "messages" in core.features:
            from imserver.plugin.messages import MessageLog

            self._searches.insert(1, GroupSearch(core.storage.store.part(MessageLog)).find)
        if "refusals" in core.features:
            from imserver.features.refusals.limits import refusals_of

            self._searches.append(RefusedRequests(refusals_of(core)).find)
        if "audit" in core.features:
            self._searches.append(AuditedRequests(core.storage.store).find)
        if "accounts" in core.features:
            from imserver.features.accounts.parts import accounts_of

            self._searches.insert(0, PeopleSearch(accounts_of(core).rows).find)

    def find(self, question: TextQuestion) -> list[HitShown]:
        """What the text may name: at most ``limit`` of each kind, exact ids first."""
        hits: list[HitShown] = []
        for search in self._searches:
            some: dict[tuple[str, str], HitShown] = {}
            for hit in search(question):
                some.setdefault((hit.app, hit.id), hit)
                if len(some) == question.limit:
                    break
            hits += some.values()
        known = {(hit.app, hit.id) for hit in hits if hit.type == "account"}
        return [hit for hit in hits if hit.type != "user" or (hit.app, hit.id) not in known]

    # --- the core -------------------------------------------------------------------------------------------

    def _apps(self, question: TextQuestion) -> Iterable[HitShown]:
        if not question.may("operate"):
            return
        resolve = self._core.identity.tenants.resolve
        names = [
            name
            for name in self._core.identity.tenants.names()
            if question.text.lower() in name.lower() and resolve(name) in question.apps
        ]
        for name in sorted(names, key=lambda name: (name != question.text, name)):
            target = resolve(name)
            yield HitShown("app", name, name, name, "" if target == name else f"→ {target}")

    def _users(self, question: TextQuestion) -> Iterable[HitShown]:
        """Users who are online, or banned."""
        apps, user = question.apps, question.text
        online = [app for app in apps if self._core.sessions.hub.is_online(app, user)]
        others = self._core.cluster.others
        if others is not None and (found := others.registry.find_in_apps(apps, user)) is not None:
            online += [app for app, refs in zip(apps, found, strict=True) if refs]
        sessions = self._core.sessions.sessions
        for app in dict.fromkeys(online):
            yield HitShown("user", user, app, user, "online")
        for app in apps:
            if sessions.is_banned(app, user):
                yield HitShown("user", user, app, user, "banned")

    def _connections(self, question: TextQuestion) -> Iterable[HitShown]:
        if question.may("operate"):
            info = self._live.find(question.text)
            if info is not None and info.app in question.apps:
                detail = f"{info.dialect} · {info.node}"
                yield HitShown("connection", question.text, info.app, info.user or question.text, detail)

    def _channels(self, question: TextQuestion) -> Iterable[HitShown]:
        """Channels with subscribers whose name begins with the text."""
        if not question.may("operate"):
            return
        text, members = question.text, self._core.channels.channels.members
        before = text[:-1] + (chr(ord(text[-1]) - 1) + "\U0010ffff" if ord(text[-1]) else "")
        for app in question.apps[:MOST_DETAILED_APPS]:
            for each in members.channels(app, before, question.limit).channels:
                if each.channel.startswith(text):
                    yield HitShown("channel", each.channel, app, each.channel, str(each.members))

    def _keys(self, question: TextQuestion) -> Iterable[HitShown]:
        """Stored keys by id or note."""
        if not question.may("own"):
            return
        principal, text = question.principal, question.text.lower()
        resolve = self._core.identity.tenants.resolve
        for row in (*self._core.identity.keys.configured, *self._core.storage.store.keys()):
            apps = set(map(resolve, row.apps))
            is_reached = principal.apps is None or (apps and apps <= principal.apps)
            if is_reached and (row.id.lower().startswith(text) or text in row.note.lower()):
                yield HitShown("key", row.id, ",".join(row.apps), row.note or row.id, " ".join(row.scopes))


class PeopleSearch:
    """Accounts: by id, identifier, or a part of their name. Moderators see no e-mail addresses and no phone
    numbers, and find nobody by them."""

    def __init__(self, rows: AccountStore) -> None:
        self._rows = rows

    def find(self, question: TextQuestion) -> Iterable[HitShown]:
        """The accounts that the text names exactly, then those whose name has it."""
        from imserver.features.accounts.identifiers import candidates

        text, sees_contacts = question.text, question.may("operate")
        number = int(text) if text.isascii() and text.isdecimal() and int(text) < _MOST_ID else 0
        logins = [each for each in candidates(text) if sees_contacts or each[0] == "name"]
        accounts = self._rows.anywhere(question.apps, number, logins)
        words, last, now = Statements.words(text), self._rows.last_id(), int(time())
        for app, begin in product(question.apps[:MOST_DETAILED_APPS], (True, False)):
            if words and len(accounts) < question.limit:
                first, limit = last - _SEARCHED, question.limit
                accounts += self._rows.named(app, words, begin, first, last, limit, now)[0]
        for account in accounts:
            contacts = (account.email, account.phone) if sees_contacts else ()
            names = [each for each in (account.name, *contacts) if each]
            yield HitShown(
                "account",
                account.user,
                account.app,
                account.nickname or next(iter(names), account.user),
                " · ".join([*names, *([account.role] if account.role else [])]),
            )


class GroupSearch:
    """Groups: by id, or a part of their name. Moderators find open ones alone."""

    def __init__(self, log: MessageLog) -> None:
        self._conversations = log.conversations

    def find(self, question: TextQuestion) -> Iterable[HitShown]:
        """The group with this id, then those whose name has the text."""
        text = question.text
        for app in question.apps[:MOST_DETAILED_APPS]:
            groups = self._conversations.groups_named(app, text, question.limit)
            if text.isascii() and text.isdecimal() and int(text) < _MOST_ID:
                exact = self._conversations.get(app, int(text))
                groups = [*([exact] if exact is not None and exact.kind == "group" else []), *groups]
            for group in groups:
                if group.open or question.may("operate"):
                    yield HitShown(
                        "group", str(group.id), app, group.name or str(group.id), f"group:{group.id}"
                    )


class RefusedRequests:
    """Requests that were refused, by id."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals

    def find(self, question: TextQuestion) -> Iterable[HitShown]:
        """The request with this id."""
        from imserver.features.refusals.log import Wanted

        if question.may("operate"):
            apps = None if question.principal.apps is None else frozenset(question.apps)
            rows, _ = self._refusals.select(Wanted(apps, request=question.text))
            for row in rows:
                yield HitShown("request", question.text, row.app, question.text, row.reason)


class AuditedRequests:
    """Requests that have changed something, by id."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, question: TextQuestion) -> Iterable[HitShown]:
        """The request with this id, once for each of its acts."""
        from imserver.features.audit.rows import NO_ACTS, AuditQuery, search

        if question.may("operate"):
            query = AuditQuery(request=question.text, limit=question.limit)
            acts, _ = self._store.read_or((NO_ACTS, 0), partial(search, query))
            for row, _ in acts:
                app = row.entry.app
                if question.principal.apps is None or app in question.apps:
                    yield HitShown("request", question.text, app, question.text, row.entry.name)

"""A node's inside with messaging over a log in a file, and clients that speak
cmd to it."""

from collections.abc import Callable
from itertools import count
from sqlite3 import OperationalError
from typing import Any

from gevent.event import Event as Flag
from msgspec import json

from imserver.gateway.auth.questions import Relations
from imserver.gateway.auth.rates import MutedUsers, SenderRates
from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.transport.connection import Connection
from imserver.messenger.channels.stored_channels import ChannelLog
from imserver.messenger.delivery.acks import AckTracker
from imserver.messenger.delivery.messaging import Messaging
from imserver.messenger.delivery.receipts import Receipts, Signals, ToFollowers
from imserver.messenger.delivery.wire import MESSAGE_COMMANDS
from imserver.messenger.log.contract import Commit, Entry
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.messages.message_commands import MessageCommands
from imserver.messenger.search.message_search import MessageSearch
from tests.gateway.hub.harness import Admitting, Harness
from tests.gateway.transport.harness import Client, until
from tests.integration.raw import TEXT, frame
from tests.messenger.log_file import Gates, LogFile, Positions

APP = "102"
"""Its policy lets several sessions of a user be addressed."""


class Node(Harness):
    """One node. ``others`` are told what is stored here, through ``wire`` if a
    test wants to lose some."""

    app = APP
    dialect = CmdDialect().joined(MESSAGE_COMMANDS)

    def __init__(self, file: LogFile | None = None, **options: Any) -> None:
        self.gates = Gates()
        self.file = file or LogFile()
        self.store: Any = self.file.open(self.gates)
        self.log: MessageLog = self.store.part(MessageLog)
        super().__init__(**options)
        self.others: list[Node] = []
        self.wire: Callable[[int, int], bool] = lambda first, last: True
        """(first id, last id) → whether peers get it."""
        self.stored: list[Entry] = []
        self.appends: list[int] = []
        """How many drafts each transaction had."""
        self.positions = Positions(self.file)
        self.ack_tracker = AckTracker(self.metrics, 1_000_000)
        self.logins = Admitting(lambda app, user, token: True)
        core = self.core(
            store=self.store,
            node_messages=self,
            logins=self.logins,
            reviews=self.reviews,
            sender_rates=SenderRates(),
            mutes=MutedUsers(),
            relations=Relations(),
        )
        self.channel_log = ChannelLog(
            self.store, self.metrics, self.hub, self.table, self.channels
        )
        self.channels.histories.ask(self.channel_log)
        self.messaging = Messaging(
            core, self.positions, self.ack_tracker, self.channel_log
        )
        self.channel_log.attach(self.messaging.follower.follow)
        self.log.writer.report_to(self)
        self.signals = Signals(core, self.messaging)
        self.receipts = Receipts(self.signals, self.store)
        searches = MessageSearch(self.store)
        self.message_commands = MessageCommands(
            self.sessions, self.messaging, self.receipts, searches, self.store
        )
        self._make_dispatcher(
            self.message_commands.commands(),
            self.receipts.commands(),
            self.signals.commands(),
        )

    def __exit__(self, *error: Any) -> None:
        self.gates.open()
        super().__exit__(*error)
        self.store.close()
        self.positions.close()

    def group(self, owner: str, *users: str) -> int:
        """The number of a new group."""
        change = self.log.groups.create(self.app, owner, "", users)
        return change.conversation

    def entries(self, app: str = APP) -> list[Entry]:
        """All that is stored."""
        return self.log.entries.read(app, 0, 1000)

    def during(self, read: int, act: Callable[[], object]) -> None:
        """Do something before the read of this number, counted from now on."""
        moments = count(1)

        def pass_moment() -> None:
            if next(moments) == 2 * read - 1:
                act()

        self.gates.around = pass_moment

    def lose_answer(self, stored: bool = True) -> None:
        """The answer to the next COMMIT of the log, which was ``stored`` or
        not, is lost."""
        self.log.writer.seconds, self.gates.losing = 0.001, Flag()
        connection = self.log.writer.connection
        if not stored and connection is not None and connection.sql is not None:
            connection.sql.commit = _fail  # type: ignore[method-assign]

    def find_answer(self) -> None:
        """Now it is known what became of it."""
        self.log.writer.seconds = self.store.seconds
        self.gates.unsure.set()

    # what :class:`imserver.messenger.log.writer.LogListener` does

    def committed(self, commit: Commit) -> None:
        self.messaging.committed(commit)

    def batch_stored(self, app: str, drafts: int, seconds: float) -> float:
        self.appends.append(drafts)
        return self.messaging.batch_stored(app, drafts, seconds)

    # what :class:`imserver.gateway.cluster.nodes.NodeMessages` does

    def peers(self) -> list[bool]:
        return [True]  # a node without others stores for itself, and sends

    def broadcast(self, message: Commit | ToFollowers) -> None:
        if isinstance(message, ToFollowers):
            for peer in self.others:
                peer.signals.deliver(message)
            return
        self.stored += message.entries
        if self.wire(message.first, message.last):
            for peer in self.others:
                peer.messaging.follower.committed(message)

    def on_ended(self, connection: Connection, code: int) -> None:
        self.messaging.catch_up.forget(connection)
        super().on_ended(connection, code)

    def speaker(
        self, user: str, cursor: int | None = None, device: str = ""
    ) -> "MessageClient":
        """A user who has logged in, with a cursor if one is given."""
        connection, client = self.connect()
        message_client = MessageClient(connection, client)
        data = {"userID": user, "appID": int(APP), "device": device}
        message_client.login = message_client.ask(
            "login", {**data, "cursor": cursor} if cursor is not None else data
        )
        return message_client


def _fail() -> None:
    raise OperationalError("the database was restarted")


class MessageClient:
    """A client of the cmd dialect."""

    def __init__(self, connection: Connection, client: Client) -> None:
        self.connection = connection
        self.client = client
        self.login: Any = None
        self._seq = 0

    def send_payload(self, cmd: str, data: Any) -> str:
        """Send a request; its seq."""
        self._seq += 1
        seq = f"r{self._seq}"
        self.client.send(
            frame(TEXT, json.encode({"seq": seq, "cmd": cmd, "data": data}))
        )
        return seq

    def bodies(self) -> list[Any]:
        return [json.decode(payload) for payload in self.client.payloads()]

    def answer(self, seq: str) -> Any:
        """The response to a request: its code and data."""
        found = until(lambda: [body for body in self.bodies() if body["seq"] == seq])
        assert len(found) == 1, found
        return found[0]["response"]["code"], found[0]["response"]["data"]

    def ask(self, cmd: str, data: Any) -> Any:
        return self.answer(self.send_payload(cmd, data))

    def send(self, to: str | int, text: str, **more: Any) -> Any:
        where = {"to": to} if isinstance(to, str) else {"conversation": to}
        return self.ask("send", {**where, "text": text, **more})

    def entries(self) -> list[tuple[str, int]]:
        """The stored entries that it received, in order: ``message`` (a push)
        or the answered command; id."""
        found: list[tuple[str, int]] = []
        for body in self.bodies():
            cmd = body["cmd"]
            data = body["response"]["data"]
            if cmd == "message" or (
                cmd in ("send", "recall", "edit") and data is not None
            ):
                found.append((cmd, data["id"]))
            elif cmd == "sync" and data is not None:
                found += [(cmd, each["id"]) for each in data["messages"]]
        return found

    def stream(self) -> list[int]:
        """The ids of :meth:`entries`."""
        return [id for _, id in self.entries()]

    def pushed(self) -> list[Any]:
        """What it was pushed."""
        return [
            body["response"]["data"]
            for body in self.bodies()
            if body["cmd"] == "message"
        ]

    def texts(self) -> list[str]:
        return [each.get("text", each["kind"]) for each in self.pushed()]

    def settle(self) -> None:
        """Wait until all that the server owes has come."""
        self._seq += 1
        self.client.probe(f"p{self._seq}".encode())

"""Reminds: ``/remind 10m tea``. BOT_TOKEN=bot_… python examples/reminder-bot/bot.py"""

import os
import re
import sqlite3
import threading
import time

from imserver_client import Api, Button, CommandRefused, Entry, Messenger

URL = os.environ.get("BOT_SERVER", "http://127.0.0.1:8080")
APP = os.environ.get("BOT_APP", "gochat")
TOKEN = os.environ["BOT_TOKEN"]
BOT = TOKEN.split("_")[1]
COMMANDS = [
    {"name": "remind", "description": "10m tea: in 10 minutes (s, m, h or d)"},
    {"name": "list", "description": "Show what you will be reminded of"},
]
HELP = "Write /remind 10m tea. The units are s, m, h and d."
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SNOOZE_SECONDS = 600
BUTTONS = [[Button("Done", "done"), Button("In 10 minutes", "snooze")]]
TABLES = """
CREATE TABLE IF NOT EXISTS reminder (id INTEGER PRIMARY KEY, user TEXT, conversation INTEGER,
                                     text TEXT, due REAL, message INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS cursor (one INTEGER PRIMARY KEY CHECK (one = 1), id INTEGER);
"""


class Reminders:
    """The reminders, which survive a restart. ``id`` is that of the message that asked for it."""

    def __init__(self, path: str) -> None:
        self._rows = sqlite3.connect(
            path, check_same_thread=False, isolation_level=None
        )
        self._rows.executescript(TABLES)
        self._lock = threading.Lock()

    def run(self, statement: str, *values: object) -> list[tuple]:
        """Run one statement; return its rows."""
        with self._lock:
            return self._rows.execute(statement, values).fetchall()

    @property
    def cursor(self) -> int | None:
        """The last entry that was answered."""
        rows = self.run("SELECT id FROM cursor")
        return rows[0][0] if rows else None


def answer(bot: Messenger, reminders: Reminders, entry: Entry) -> None:
    """Answer an entry. After a crash it may come again."""
    command = entry.command
    if entry.kind == "press":
        press(bot, reminders, entry)
    elif entry.kind == "message" and entry.sender != BOT:
        if command and command.name == "remind":
            text = remind(reminders, entry, command.text)
        elif command and command.name == "list":
            text = listing(reminders, entry.sender)
        else:
            text = HELP
        say(bot, entry.conversation, text, f"remind-{entry.id}", reply_to=entry.id)


def say(bot: Messenger, conversation: int, text: str, id: str, **more: object) -> int:
    """Send a text once, however often it is called with the same id."""
    return bot.send(text=text, conversation=conversation, client_msg_id=id, **more).id


def remind(reminders: Reminders, entry: Entry, text: str) -> str:
    """Add a reminder; return the answer."""
    found = re.fullmatch(r"(\d{1,4})\s*([smhd])\s+(.+)", text, re.DOTALL)
    if not found:
        return HELP
    due = entry.time / 1000 + int(found[1]) * SECONDS[found[2]]
    reminders.run(
        "INSERT OR IGNORE INTO reminder (id, user, conversation, text, due) VALUES (?, ?, ?, ?, ?)",
        *(entry.id, entry.sender, entry.conversation, found[3], due),
    )
    return f"I will remind you in {found[1]} {found[2]}."


def listing(reminders: Reminders, user: str) -> str:
    """The reminders of a user."""
    rows = reminders.run(
        "SELECT text, due FROM reminder WHERE user = ? AND message = 0 ORDER BY due",
        user,
    )
    lines = [
        f"{max(0, round((due - time.time()) / 60))} min: {text}" for text, due in rows
    ]
    return "\n".join(lines) or "Nothing."


def press(bot: Messenger, reminders: Reminders, entry: Entry) -> None:
    """Close a reminder, or repeat it later. Only the user who asked for it may."""
    rows = reminders.run(
        "SELECT id, text FROM reminder WHERE message = ? AND user = ?",
        entry.about,
        entry.sender,
    )
    for id, text in rows:
        if entry.text == "snooze":
            due = entry.time / 1000 + SNOOZE_SECONDS
            reminders.run(
                "UPDATE reminder SET due = ?, message = 0 WHERE id = ?", due, id
            )
        else:
            reminders.run("DELETE FROM reminder WHERE id = ?", id)
        bot.edit(entry.about, f"⏰ {text} ({entry.text})")


def send_due(bot: Messenger, reminders: Reminders) -> None:
    """Send the reminders that are due."""
    rows = reminders.run(
        "SELECT id, user, conversation, text, due FROM reminder WHERE message = 0 AND due <= ?",
        time.time(),
    )
    for id, user, conversation, text, due in rows:
        mentions = {"mentions": [user]}
        try:
            message = say(
                bot,
                conversation,
                f"⏰ {text}",
                f"due-{id}-{due}",
                buttons=BUTTONS,
                **mentions,
            )
            reminders.run("UPDATE reminder SET message = ? WHERE id = ?", message, id)
        except CommandRefused as refused:  # for example, the user has blocked this bot
            print(f"reminder {id}: {refused}", flush=True)
            reminders.run("DELETE FROM reminder WHERE id = ?", id)


def main() -> None:
    """Serve until Ctrl-C."""
    with Api(URL, TOKEN) as api:
        api.call("POST", "bots/commands", {"app": APP, "commands": COMMANDS})
    reminders = Reminders(os.environ.get("BOT_FILE", "reminder-bot.sqlite"))
    address = f"{URL.replace('http', 'ws', 1)}/acc"
    with Messenger(address, APP, BOT, TOKEN, cursor=reminders.cursor) as bot:
        print("ready", flush=True)
        while True:
            event = bot.receive(timeout_seconds=1)
            if isinstance(event, Entry):
                try:
                    answer(bot, reminders, event)
                except CommandRefused as refused:
                    print(f"entry {event.id}: {refused}", flush=True)
                reminders.run("INSERT OR REPLACE INTO cursor VALUES (1, ?)", bot.cursor)
            send_due(bot, reminders)


if __name__ == "__main__":
    main()

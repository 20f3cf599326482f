"""Repeats each message, and has two buttons. BOT_TOKEN=bot_… python examples/echo-bot/bot.py"""

import os
from pathlib import Path

from imserver_client import Api, Button, CommandRefused, Entry, Messenger

URL = os.environ.get("BOT_SERVER", "http://127.0.0.1:8080")
APP = os.environ.get("BOT_APP", "gochat")
TOKEN = os.environ["BOT_TOKEN"]
BOT = TOKEN.split("_")[1]
CURSOR = Path(os.environ.get("BOT_CURSOR", "echo-bot.cursor"))
"""The last entry that was answered, so that a restart misses none."""
COMMANDS = [{"name": "echo", "description": "Repeat a text"}]


def answer(bot: Messenger, entry: Entry) -> None:
    """Answer a message once: the server stores each client_msg_id once, also after a crash."""
    text = entry.command.text if entry.command else entry.text
    if not text:
        return
    here = entry.conversation
    buttons = [[Button("Louder", f"louder {here}"), Button("Enough", f"enough {here}")]]
    id = f"echo-{entry.id}"
    bot.send(
        text=f"You said: {text}",
        conversation=here,
        reply_to=entry.id,
        buttons=buttons,
        client_msg_id=id,
    )


def press(bot: Messenger, entry: Entry) -> None:
    """Edit the message whose button was pressed. An edit without buttons removes them."""
    wish, conversation = (entry.text or "").split()
    for message in bot.history(
        int(conversation), before=entry.about + 1, limit=1
    ).messages:
        if message.id == entry.about and message.text:
            bot.edit(
                message.id,
                message.text.upper()
                if wish == "louder"
                else f"{message.text} (the end)",
            )


def save(cursor: int) -> None:
    """Write the cursor so that a bot that is killed meanwhile still has the one before."""
    new = CURSOR.with_suffix(".new")
    new.write_text(str(cursor))
    new.replace(CURSOR)


def main() -> None:
    """Serve until Ctrl-C. The messenger reconnects by itself."""
    with Api(URL, TOKEN) as api:
        api.call("POST", "bots/commands", {"app": APP, "commands": COMMANDS})
    cursor = int(CURSOR.read_text()) if CURSOR.exists() else 0
    with Messenger(
        f"{URL.replace('http', 'ws', 1)}/acc", APP, BOT, TOKEN, cursor=cursor
    ) as bot:
        print("ready", flush=True)
        for event in bot:
            if not isinstance(event, Entry):
                continue
            try:
                if event.kind == "press":
                    press(bot, event)
                elif event.kind == "message" and event.sender != BOT:
                    answer(bot, event)
            except (
                CommandRefused
            ) as refused:  # for example, the user has blocked this bot
                print(f"entry {event.id}: {refused}", flush=True)
            save(bot.cursor)


if __name__ == "__main__":
    main()

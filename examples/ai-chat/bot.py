"""Streams the answers of a model that invents them. BOT_TOKEN=bot_… python examples/ai-chat/bot.py"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from imserver_client import ClientError, Entry, Messenger

ADDRESS = (
    os.environ.get("BOT_SERVER", "http://127.0.0.1:8080").replace("http", "ws", 1)
    + "/acc"
)
APP = os.environ.get("BOT_APP", "gochat")
TOKEN = os.environ["BOT_TOKEN"]
BOT = TOKEN.split("_")[1]
SECONDS = float(os.environ.get("MODEL_SECONDS", "0.15"))


def words_of(question: str) -> Iterator[str]:
    """The model: put the request to yours here. It ends when somebody stops the answer."""
    for word in (f"You ask: “{question}” " + "Tea helps. " * 20).split():
        time.sleep(SECONDS)
        yield f"{word} "


def answer(bot: Messenger, entry: Entry) -> None:
    """Stream the answer to a message, until somebody stops it."""
    try:
        stream = bot.stream_open(conversation=entry.conversation).stream
        for number, word in enumerate(words_of(entry.text or ""), 1):
            while (
                status := bot.stream_append([(stream, number, word)]).results[0].status
            ) == "failed":
                time.sleep(1)  # its node does not answer
            if status not in ("appended", "repeated"):
                return print(f"{status}: {stream}", flush=True)
        bot.stream_close(stream)
    except ClientError as error:
        print(f"message {entry.id}: {error}", flush=True)


with (
    ThreadPoolExecutor(16) as pool,
    Messenger(ADDRESS, APP, BOT, TOKEN, cursor=None) as bot,
):
    print("ready", flush=True)
    for event in bot:
        if isinstance(event, Entry) and event.kind == "message" and event.sender != BOT:
            pool.submit(answer, bot, event)

"""Streams the answers of a language model. The endpoint has the OpenAI chat format.

BOT_TOKEN=bot_… LLM_URL=http://127.0.0.1:11434/v1 LLM_MODEL=llama3 python examples/llm-bot/bot.py
"""

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

from imserver_client import Api, ClientError, Entry, Messenger

URL = os.environ.get("BOT_SERVER", "http://127.0.0.1:8080")
APP = os.environ.get("BOT_APP", "gochat")
TOKEN = os.environ["BOT_TOKEN"]
BOT = TOKEN.split("_")[1]
LLM_URL = os.environ["LLM_URL"]
LLM_KEY = os.environ.get("LLM_KEY", "")
LLM_MODEL = os.environ.get("LLM_MODEL", "default")
PROMPT = os.environ.get(
    "LLM_PROMPT", "You are a friendly member of a chat. Answer briefly."
)
COMMANDS = [{"name": "ask", "description": "Ask the language model"}]
CONTEXT_MESSAGES = 20
ANSWERS_AT_ONCE = 8
LLM_SECONDS = 120


def messages_before(bot: Messenger, entry: Entry) -> list[dict[str, str]]:
    """The conversation up to a message, in the form of the endpoint."""
    page = bot.history(entry.conversation, before=entry.id + 1, limit=CONTEXT_MESSAGES)
    said = [
        {
            "role": "assistant" if each.sender == BOT else "user",
            "content": each.command.text if each.command else each.text,
        }
        for each in page.messages
        if each.kind == "message" and each.text
    ]
    return [{"role": "system", "content": PROMPT}, *said]


def words_of(messages: list[dict[str, str]]) -> Iterator[str]:
    """The parts of an answer as they come. Raises OSError, HTTPException and ValueError."""
    body = json.dumps(
        {"model": LLM_MODEL, "messages": messages, "stream": True}
    ).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {LLM_KEY}"}
    request = urllib.request.Request(f"{LLM_URL}/chat/completions", body, headers)
    with urllib.request.urlopen(request, timeout=LLM_SECONDS) as answer:
        for line in answer:  # server-sent events: data: {…}
            data = line.decode().strip().removeprefix("data:").strip()
            if data.startswith("{"):
                choices = json.loads(data).get("choices") or [{}]
                if word := (choices[0].get("delta") or {}).get("content"):
                    yield word
            elif data == "[DONE]":
                return
    raise OSError("the answer has ended early")


def append(bot: Messenger, stream: str, number: int, text: str) -> bool:
    """Append a piece, again while its node does not answer. False: somebody has stopped the stream. Raises
    OSError if it takes no more."""
    while (
        status := bot.stream_append([(stream, number, text)]).results[0].status
    ) == "failed":
        time.sleep(1)
    if status not in ("appended", "repeated", "closed"):
        raise OSError(f"the stream is over: {status}")
    return status != "closed"


def answer(bot: Messenger, entry: Entry) -> None:
    """Stream the answer to a message, until somebody stops it. If the model fails in the middle, the text
    ends as incomplete."""
    try:
        stream = bot.stream_open(conversation=entry.conversation).stream
        try:
            for number, piece in enumerate(words_of(messages_before(bot, entry)), 1):
                if not append(bot, stream, number, piece):
                    return  # the generator ends, and with it the request to the model
        except (OSError, HTTPException, ValueError) as error:
            bot.stream_close(stream, incomplete=True)
            bot.send(
                text=f"The language model does not answer: {error}",
                conversation=entry.conversation,
            )
        else:
            bot.stream_close(stream)
    except ClientError as error:
        print(f"message {entry.id}: {error}", flush=True)


def main() -> None:
    """Serve until Ctrl-C. Several answers are written at once."""
    with Api(URL, TOKEN) as api:
        api.call("POST", "bots/commands", {"app": APP, "commands": COMMANDS})
    address = f"{URL.replace('http', 'ws', 1)}/acc"
    with (
        ThreadPoolExecutor(ANSWERS_AT_ONCE) as pool,
        Messenger(address, APP, BOT, TOKEN, cursor=None) as bot,
    ):
        print("ready", flush=True)
        for event in bot:
            if (
                isinstance(event, Entry)
                and event.kind == "message"
                and event.sender != BOT
                and event.text
            ):
                pool.submit(answer, bot, event)


if __name__ == "__main__":
    main()

"""Wire samples: the files of ``tests/vectors`` (their README has the form), and
what plays them."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from imserver.gateway.model import (
    BadFrame,
    ChannelPart,
    Event,
    Reply,
    Request,
    Signal,
    StreamPart,
)
from imserver.gateway.protocol.dialect import Dialect
from tests.integration.raw import (
    BINARY,
    PING,
    PONG,
    TEXT,
    Address,
    ask,
    frame,
    open_socket,
    request,
)
from tests.support import ROOT, Server

WILD = {
    "<digits>": "[0-9]+",
    "<rest>": ".*",
    "<any>": '(?:[^"\\\\]|\\\\.)*',
    "<id>": "[0-9a-f]{16}",
}
"""What stands for a text that the server makes."""
Makers = Mapping[str, Callable[..., Any]]


def samples_of(name: str) -> Any:
    """A file of samples."""
    return json.loads(
        (ROOT / "tests" / "vectors" / f"{name}.json").read_text(encoding="utf-8")
    )


def bytes_of(sample: Any, is_text: bool = False) -> bytes:
    """A frame: a text, or one that has hexadecimal digits, or both for the two
    forms of a dialect."""
    if isinstance(sample, dict):
        return str(sample["text"]).encode() if is_text else bytes.fromhex(sample["hex"])
    return str(sample).encode()


def is_for(dialect: Dialect, sample: dict[str, Any]) -> bool:
    """Whether a codec reads or writes a sample; others only a server plays."""
    if (
        not {"command", "refused", "bad", "event", "message", "reply", "call"}
        & sample.keys()
    ):
        return False
    given = sample.get("send", sample.get("frame"))
    if isinstance(given, dict):
        return ("text" if dialect.text else "hex") in given
    return given is None or dialect.text


def is_alike(found: bytes, wanted: bytes) -> bool:
    """Whether a frame is the wanted one, whatever stands for what the server
    makes."""
    if b"<" not in wanted:
        return found == wanted
    pattern = re.escape(wanted.decode())
    for word, regex in WILD.items():
        pattern = pattern.replace(re.escape(word), regex)
    return re.fullmatch(pattern, found.decode()) is not None


# --- by a codec ---------------------------------------------------------------


def shown(command: Any) -> list[Any]:
    """A command as samples name it: its type, and the fields that have no
    default."""
    found = {
        field.name: getattr(command, field.name)
        for field in msgspec.structs.fields(command)
        if getattr(command, field.name) != field.default
        and not (
            callable(field.default_factory)
            and getattr(command, field.name) == field.default_factory()
        )
    }
    return [type(command).__name__, json.loads(json.dumps(found, default=bytes.decode))]


def event_of(fields: dict[str, Any]) -> Event:
    """The event, or the signal, that has these fields."""
    whole = {
        "sender": "",
        "text": "",
        **fields,
        "data": fields.get("data", "").encode(),
    }
    if (channel := fields.get("channel")) is not None:
        stream = StreamPart(*channel["stream"]) if "stream" in channel else None
        texts = {
            key: channel[key].encode() for key in ("info", "tags") if key in channel
        }
        whole["channel"] = ChannelPart(**{**channel, **texts, "stream": stream})
    of_signal = {"to", "conversation", "read", "received", "ids"} & fields.keys()
    return (Signal if of_signal else Event)(**whole)


def message_of(fields: dict[str, Any]) -> Any:
    """The stored message that has these fields."""
    # the house of the gateway is tested without it
    from imserver.messenger.log.model import Message

    texts = {key: fields[key].encode() for key in ("body", "meta") if key in fields}
    members = tuple(fields.get("members", ()))
    return Message(**{**fields, **texts, "members": members})


def json_of(fields: dict[str, Any], kind: Any) -> Any:
    """The struct that has these fields, made by ``kind`` if that is no
    struct."""
    return (
        msgspec.json.decode(msgspec.json.encode(fields), type=kind)
        if isinstance(kind, type)
        else kind(fields)
    )


def encoded(dialect: Dialect, sample: dict[str, Any], makers: Makers) -> Any:
    """What the codec makes of the event, message, reply or call of a sample."""
    receiver = sample.get("receiver", "ann")
    if "reply" in sample:
        name, seq, code, *data = sample["reply"]
        for kind, fields in data[0].items() if data else ():
            types = {**vars(sys.modules[type(dialect).__module__]), **makers}
            data = [json_of(fields, types[kind])]
        return dialect.encode_reply(Request(seq, name, None), Reply(code, *data))
    if "call" in sample:
        name, *arguments = sample["call"]
        return makers[name](*arguments)
    if "message" in sample:
        message = message_of(sample["message"])
        payload = dialect.encode_message(message)
        halves = dialect.encode_message_for(message)
    else:
        event = event_of(sample["event"])
        payload = dialect.encode_event(event)
        halves = dialect.encode_for(event)
    if halves is not None:
        return json.dumps(receiver).encode().join(halves)
    return payload(receiver, None) if callable(payload) else payload


def check(
    dialect: Dialect, sample: dict[str, Any], makers: Makers | None = None
) -> None:
    """Check what the codec reads and writes against a sample. ``makers``:
    functions and types it names."""

    def read() -> Request:
        (request,) = dialect.split(bytes_of(sample["send"], dialect.text))
        return dialect.decode(request)

    if "bad" in sample:
        with pytest.raises(BadFrame) as bad:
            read()
        reply = bad.value.reply
        assert [reply.decode() if reply else None, bad.value.close] == sample["bad"]
        return
    if "send" in sample:
        request = read()
        assert [request.seq, request.name] == sample.get(
            "request", [request.seq, request.name]
        )
        if "command" in sample:
            assert shown(request.command) == sample["command"]
            return
        assert (request.command, request.code) == (None, sample["refused"])
        found = dialect.encode_reply(request, Reply(request.code))
    else:
        found = encoded(dialect, sample, makers or {})
    wanted = sample["frame"]
    assert found == wanted is None or is_alike(
        found or b"", bytes_of(wanted, dialect.text)
    ), found


def requests_of(name: str, dialect: Dialect) -> dict[bytes, Any]:
    """What clients send in the samples of a file → the type of its command."""
    found = [sample for sample in samples_of(name)["samples"] if "command" in sample]
    given = [
        bytes_of(each["send"], dialect.text) for each in found if is_for(dialect, each)
    ]
    payloads = [payload for frame in given for payload in dialect.split(frame)]
    return {payload: type(dialect.decode(payload).command) for payload in payloads}


# --- by a server --------------------------------------------------------------


def _post(address: Address, sample: dict[str, Any]) -> str:
    """What is wrong with the answer to a request."""
    headers = tuple(sample.get("headers", {}).items())
    data = request(
        sample["post"], method="POST", headers=headers, body=sample["send"].encode()
    )
    answer = ask(address, data)
    (wanted,) = sample["answers"]
    right = answer.status == sample.get("status", 200) and is_alike(
        answer.body, wanted.encode()
    )
    return "" if right else f"{answer.status} {answer.body.decode()}"


def _play(address: Address, rows: dict[str, Any], sample: dict[str, Any]) -> str:
    """What is wrong with the frames that a connection of its own gets."""
    with open_socket(address, sample.get("path") or rows["path"]) as client:
        client.answers_pings = True
        ping = rows.get("ping", "").encode()

        def expect(frames: list[Any]) -> str:
            for each in frames:
                while (found := client.message()).payload == ping:
                    pass
                kind = BINARY if isinstance(each, dict) else TEXT
                if found.opcode != kind or not is_alike(found.payload, bytes_of(each)):
                    return f"{found} in place of {each}"
            return ""

        def say(payload: Any) -> None:
            kind = BINARY if isinstance(payload, dict) or sample.get("binary") else TEXT
            client.send(frame(kind, bytes_of(payload)))

        wrong = "" if "path" in sample else expect(rows.get("opening", []))
        for before, answers in rows["session"] if sample.get("session") else ():
            say(before)
            wrong = wrong or expect(answers)
        if "send" in sample:
            say(sample["send"])
        wrong = wrong or expect(sample["answers"])
        if wrong:
            return wrong
        if "close" in sample:
            client.closed(sample["close"])
        else:
            client.send(frame(PING, b"quiet?"))
            while (found := client.frame()).payload == ping:
                pass
            if found.opcode != PONG:
                return f"{found} behind all"
        return ""


def play(server: Server, rows: dict[str, Any]) -> list[str]:
    """Play the samples of a file, in their order, that have answers; what is
    wrong."""
    found = []
    for sample in rows["samples"]:
        if "answers" in sample:
            try:
                wrong = (
                    _post(server.http, sample)
                    if "post" in sample
                    else _play(server.ws, rows, sample)
                )
            except (AssertionError, TimeoutError) as error:
                wrong = str(error)
            if wrong:
                found.append(f"{sample['name']}: {wrong}")
    return found

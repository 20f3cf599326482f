"""The state of sessions, without a connection: login, retries, deadlines, sync
and acks."""

import json
from concurrent.futures import Future
from math import inf
from typing import Any

import pytest

import imserver_client as im
from imserver_client import session
from imserver_client.errors import CLOSE_TRY_AGAIN

PUSH = '{"seq":"7","cmd":"msg","response":{"code":200,"data":{"from":"shop","msg":"hello"}}}'


def reply(seq: str, cmd: str, code: int = 200, data: Any = None) -> str:
    return json.dumps(
        {
            "seq": seq,
            "cmd": cmd,
            "response": {"code": code, "codeMsg": "…", "data": data},
        }
    )


def sent(core: session.SessionCore[Any]) -> list[dict[str, Any]]:
    return [json.loads(frame) for frame in core.to_send()]


def begin(core: session.SessionCore[Any], now: float) -> None:
    core.start(now)
    core.opened("token", now)


def logged_in(
    core: session.SessionCore[Any], data: Any = None, now: float = 0.0
) -> list[dict[str, Any]]:
    """Log a session in; return what it sends then."""
    begin(core, now)
    (login,) = sent(core)
    core.feed(reply(login["seq"], "login", data=data), now)
    return sent(core)


def online() -> session.PushCore:
    core = session.PushCore("101", "ann")
    logged_in(core)
    return core


# --- login, retries, end ------------------------------------------------------


def test_a_session_logs_in_receives_and_sends_heartbeats() -> None:
    core = session.PushCore("101", "ann", device="phone")
    assert core.state == "idle"
    core.start(0)
    assert core.state == "connecting"
    core.opened("token", 0)
    (login,) = sent(core)
    assert login["data"] == {
        "userID": "ann",
        "appID": 101,
        "serviceToken": "token",
        "device": "phone",
    }
    core.feed(PUSH, 1)  # a push may come before the answer
    core.feed(reply(login["seq"], "login"), 1)
    assert (core.state, core.settled, core.deadline) == (
        "online",
        True,
        1 + session.HEARTBEAT_SECONDS,
    )
    assert core.take() == im.Push("msg", "shop", "hello", "7")
    assert core.take() is None
    core.tick(core.deadline - 1)
    assert sent(core) == []
    core.tick(core.deadline)
    (heartbeat,) = sent(core)
    assert heartbeat["cmd"] == "heartbeat"
    core.feed(reply(heartbeat["seq"], "heartbeat"), core.deadline)
    assert core.deadline == 1 + 2 * session.HEARTBEAT_SECONDS


@pytest.mark.parametrize("heard", [False, True])
def test_a_connection_without_a_frame_after_a_heartbeat_is_lost(heard: bool) -> None:
    core = online()
    core.tick(session.HEARTBEAT_SECONDS)
    if heard:
        core.feed(PUSH, session.HEARTBEAT_SECONDS + 1)
    else:
        assert core.deadline == session.HEARTBEAT_SECONDS + session.ANSWER_SECONDS
    core.tick(session.HEARTBEAT_SECONDS + session.ANSWER_SECONDS)
    assert core.close_code == (0 if heard else CLOSE_TRY_AGAIN)
    core.lost(CLOSE_TRY_AGAIN, 50)
    logged_in(core, now=60)
    assert core.deadline == 60 + session.HEARTBEAT_SECONDS, "a new connection"


def test_a_silent_connection_is_sent_a_heartbeat_when_a_request_waits() -> None:
    core = online()
    core.tick(session.SILENT_SECONDS)
    assert sent(core) == [], "no request waits"
    core.answers.futures["x"] = Future()
    core.feed(PUSH, 6)
    core.tick(10)
    assert sent(core) == [], "it has sent a frame"
    for now in (6 + session.SILENT_SECONDS, 20):
        core.tick(now)
    assert [frame["cmd"] for frame in sent(core)] == ["heartbeat"]
    assert core.deadline == 6 + session.SILENT_SECONDS + session.ANSWER_SECONDS
    core.tick(core.deadline)
    assert core.close_code == CLOSE_TRY_AGAIN
    core.lost(CLOSE_TRY_AGAIN, 50)
    core.answers.futures["y"] = Future()
    begin(core, 60)
    core.tick(61)
    assert core.close_code == 0, "the login has its own deadline"


@pytest.mark.parametrize(
    ("app", "user"), [("", "ann"), ("system:shop", "ann"), ("101", "")]
)
def test_a_login_that_cannot_be_sent_is_refused_at_once(app: str, user: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        session.PushCore(app, user)


def test_a_final_refusal_ends_the_session_and_another_one_does_not() -> None:
    core = session.PushCore("101", "ann")
    begin(core, 0)
    assert core.deadline == session.ANSWER_SECONDS
    core.feed(reply(sent(core)[0]["seq"], "login", 1004), 0)
    assert core.close_code == CLOSE_TRY_AGAIN
    core.lost(CLOSE_TRY_AGAIN, 0)
    assert (core.state, core.settled) == ("waiting", False)
    begin(core, 1)
    assert core.close_code == 0
    core.feed(reply(sent(core)[0]["seq"], "login", 1003), 1)
    assert core.close_code == 1000
    core.lost(1000, 1)
    assert (core.state, core.settled) == ("ended", True)
    assert isinstance(core.error, im.LoginRefused)


def test_a_lost_connection_fails_requests_and_is_made_again() -> None:
    core = session.PushCore("101", "ann", backoff=session.Backoff(1.0, 1.0))
    logged_in(core)
    answer: Future[im.Reply] = Future()
    late: Future[im.Reply] = Future()
    seq, _ = core.command("ping")
    core.answers.futures[seq] = answer
    core.feed(reply(seq, "ping"), 1)
    assert answer.result(0).ok
    core.answers.futures["later"] = late
    core.lost(1006, 5)
    assert core.state == "waiting"
    assert 5 <= core.deadline <= 6
    with pytest.raises(im.NotConnected):
        late.result(0)
    core = online()
    futures: list[Future[im.Reply]] = []
    for text in ("x" * 20, "大" * 10, "x" * 5):
        futures.append(Future())
        seq, frame = core.command("send", {"text": text})
        core.answers.add(seq, futures[-1], frame)
    core.lost(1009, 5)
    kinds = [type(each.exception(0)) for each in futures]
    assert kinds == [im.NotConnected, im.Closed, im.NotConnected]
    assert core.state == "waiting"


@pytest.mark.parametrize("code", [4502, 4504])
def test_a_close_code_of_the_server_may_end_the_session(code: int) -> None:
    core = online()
    core.feed(PUSH, 1)
    core.lost(code, 1)
    assert core.state == "ended"
    assert core.take() is not None, "what came before is received"
    with pytest.raises(im.Closed, match=str(code)):
        core.raise_if_over()


def test_a_session_with_a_token_function_outlives_the_expiry_of_a_token() -> None:
    core = session.PushCore("101", "ann")
    for _ in range(2):
        core.start(0)
        core.opened("token", 0, renewable=True)
        core.feed(reply(sent(core)[0]["seq"], "login"), 0)
        core.lost(4504, 5)
        assert core.state == "waiting"
    core.start(6)
    core.opened("the same token", 6, renewable=True)
    core.lost(4504, 6)
    assert core.state == "ended", "no login since the last expiry"


# --- sync ---------------------------------------------------------------------


def fields(id: int) -> dict[str, Any]:
    message = {"kind": "message", "from": "ann", "type": "text", "text": "x"}
    return {"id": id, "conversation": 1, "seq": id, **message}


def entry(id: int) -> im.Entry:
    found = im.Entry.of(fields(id))
    assert found is not None
    return found


def page(*ids: int, more: bool = False, **other: Any) -> dict[str, Any]:
    return {"messages": [fields(id) for id in ids], "hasMore": more, **other}


def behind(cursor: int | None) -> session.SyncTracker:
    tracker = session.SyncTracker(cursor)
    tracker.login_fields()
    tracker.logged_in({"recovered": False})
    return tracker


def live(cursor: int = 0) -> session.SyncTracker:
    tracker = session.SyncTracker(cursor)
    tracker.login_fields()
    assert tracker.logged_in({"recovered": True}) is None
    return tracker


def ids(events: list[Any]) -> list[int]:
    return [event.id for event in events if isinstance(event, im.Entry)]


def cursor_of(question: tuple[str, dict[str, Any]] | None, cmd: str = "sync") -> int:
    assert question is not None
    assert question[0] == cmd
    return int(question[1]["cursor"])


def test_a_recovered_session_acknowledges_what_is_new_and_what_comes_again() -> None:
    tracker = live(3)
    assert tracker.received(entry(4), 0)
    assert tracker.ack(session.ACK_SECONDS) == ("ack", {"id": 4})
    assert tracker.ack(session.ACK_SECONDS) is None
    assert not tracker.received(entry(4), 5)
    assert tracker.ack(5 + session.ACK_SECONDS) == ("ack", {"id": 4})
    for id in range(5, 4 + session.ACK_ENTRIES):
        tracker.received(entry(id), 50)
    assert (tracker.ack(50), tracker.ack_at) == (None, 50 + session.ACK_SECONDS)
    tracker.received(entry(4 + session.ACK_ENTRIES), 50)
    assert tracker.ack(50) == ("ack", {"id": 4 + session.ACK_ENTRIES}), (
        "many are acknowledged early"
    )
    assert tracker.ack_at == inf


def test_pages_are_requested_until_there_are_no_more() -> None:
    tracker = session.SyncTracker(1)
    assert tracker.login_fields() == {"cursor": 1, "acks": True}
    assert cursor_of(tracker.logged_in({"recovered": False})) == 1
    events, question = tracker.answered("sync", page(2, 5, more=True), 0)
    assert (ids(events), cursor_of(question)) == ([2, 5], 5)
    assert not tracker.received(entry(9), 0), "it comes again in a page"
    events, question = tracker.answered("sync", page(6, 9), 0)
    assert (ids(events), question) == ([6, 9], None)
    assert tracker.received(entry(10), 0)
    tracker = behind(500)  # an invalid cursor begins at the first entry
    events, question = tracker.answered("sync", page(beginAnew=True), 0)
    assert (events, cursor_of(question)) == ([im.LogReset()], 0)
    assert not tracker.received(entry(501), 0)
    assert tracker.answered("sync", page(1), 0)[1] is None
    assert tracker.cursor == 1


def test_from_now_on_begins_after_the_newest_entry_and_acknowledges_nothing() -> None:
    tracker = session.SyncTracker(None)
    assert tracker.login_fields() == {}
    assert tracker.logged_in(None) == ("conversations", {"limit": 1})
    newest = {"id": 3, "kind": "user", "peer": "bob", "last": fields(40), "place": 41}
    events, question = tracker.answered(
        "conversations", {"conversations": [newest], "hasMore": True}, 0
    )
    assert (events, cursor_of(question)) == ([], 41)
    tracker = behind(None)
    tracker.answered("conversations", {"conversations": [], "hasMore": False}, 0)
    assert tracker.cursor == 0, "there is none"
    tracker.answered("sync", page(1), 0)
    assert tracker.ack(60) is None
    assert tracker.login_fields() == {"cursor": 1, "acks": True}


@pytest.mark.parametrize(
    "data",
    [None, {}, {"messages": 1, "hasMore": False}, {"messages": [{}], "hasMore": False}],
)
def test_a_malformed_page_is_an_error(data: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        behind(1).answered("sync", data, 0)


# --- messengers ---------------------------------------------------------------


def stored(core: session.MessengerCore, id: int) -> None:
    core.feed(reply("x", "send", data={"id": id, "conversation": 1, "seq": id}), 0)


def test_our_own_messages_move_the_cursor_unless_entries_before_them_are_still_to_come() -> (
    None
):
    core = session.MessengerCore("101", "bob", 0)
    logged_in(core, {"recovered": True})
    for id in (3, 5, 4):
        stored(core, id)
    assert core.waiting == 1, "marks in a row are one"
    core.feed(reply("", "message", data=fields(7)), 0)
    stored(core, 8)
    assert core.cursor == 0
    assert core.take() == entry(7)
    assert core.cursor == 7
    assert core.take() is None
    assert core.cursor == 8
    core = session.MessengerCore("101", "bob", None)
    (question,) = logged_in(core)
    stored(core, 42)
    assert core.waiting == 0, "whoever stops here and comes back must get 41"
    core.feed(
        reply(
            question["seq"],
            "conversations",
            data={"conversations": [], "hasMore": False},
        ),
        0,
    )
    (question,) = sent(core)
    core.feed(reply(question["seq"], "sync", data=page(41, 42)), 0)
    stored(core, 43)
    assert ids([core.take(), core.take(), core.take()]) == [41, 42]
    assert core.cursor == 43


@pytest.mark.usefixtures("small_queue")
@pytest.mark.parametrize(
    "full_at", [session.HEARTBEAT_SECONDS - 1, session.HEARTBEAT_SECONDS + 1]
)
def test_a_full_queue_does_not_make_a_connection_look_lost(full_at: float) -> None:
    core = online()
    fill = [(full_at, lambda: [core.feed(PUSH, full_at) for _ in range(2)])]
    ticks = [(session.HEARTBEAT_SECONDS, lambda: core.tick(session.HEARTBEAT_SECONDS))]
    for _, step in sorted(fill + ticks, key=lambda each: each[0]):
        step()
    core.tick(session.HEARTBEAT_SECONDS + 2)
    core.take()
    core.tick(session.HEARTBEAT_SECONDS + session.ANSWER_SECONDS + 1)
    assert core.close_code == 0


@pytest.mark.usefixtures("small_queue")
def test_the_next_page_is_requested_when_the_queue_has_room() -> None:
    core = session.MessengerCore("101", "bob", 0)
    (question,) = logged_in(core)
    core.feed(reply(question["seq"], "sync", data=page(1, 2, more=True)), 1)
    assert core.full
    assert sent(core) == []
    core.take()
    assert not core.full
    core.tick(1)
    (question,) = sent(core)
    assert question["data"]["cursor"] == 2
    core.feed(reply(question["seq"], "sync", data=page(3, 4, more=True)), 1)
    core.lost(1006, 1)
    begin(core, 1)
    taken(core)
    core.tick(1)
    assert [frame["cmd"] for frame in sent(core)] == ["login"]


@pytest.mark.usefixtures("small_queue")
def test_a_full_queue_does_not_keep_answers_from_being_read() -> None:
    core = session.MessengerCore("101", "bob", 0)
    core.answers.futures["x"] = Future()
    (question,) = logged_in(core)
    core.feed(reply(question["seq"], "sync", data=page(1, 2, more=True)), 1)
    (question,) = sent(core)
    core.feed(reply(question["seq"], "sync", data=page(3, 4, more=True)), 1)
    assert (core.waiting, core.full, sent(core)) == (4, False, [])
    assert core.deadline == 1 + session.ROOM_SECONDS
    for _ in range(2):
        core.feed(reply("", "typing", data={"from": "ann"}), 1)
    assert core.full, "there is a limit all the same"
    core.lost(1006, 1)
    begin(core, 1)
    assert not core.full, "the answer to the login is read"


def test_a_command_is_tried_until_its_answer_is_final_or_its_time_is_over() -> None:
    core = session.MessengerCore("101", "bob", 1)
    attempts = session.Attempts(core, im.protocol.hide([7]), 100.0)
    seconds = attempts.seconds_left(100.0)
    turn: Future[float] = Future()
    attempts.begin(turn, 100.0)
    with pytest.raises(im.NotConnected, match="hide"):
        attempts.answer_seconds(100.0 + seconds)
    assert not turn.done()
    logged_in(core, {"recovered": True}, 100.0)
    assert turn.result(0) == 100.0
    assert attempts.answer_seconds(100.0) == seconds
    not_stored = im.Reply("1", "hide", 1008)
    lost = im.NotConnected("lost")
    attempts.failed(lost, 100.0)
    assert not attempts.is_gone(), "this connection is about to end"
    core.lost(1006, 100.0)
    assert attempts.is_gone()
    assert not attempts.is_final(not_stored, 100.0)
    assert attempts.is_final(im.Reply("1", "hide", 200), 100.0)
    assert attempts.is_final(not_stored, 100.0 + seconds)
    with pytest.raises(im.NotConnected):
        attempts.failed(lost, 100.0 + seconds)
    core.end(im.Closed(4001))
    with pytest.raises(im.Closed):
        attempts.answer_seconds(100.0)


def begun(
    core: session.MessengerCore, count: int
) -> list[tuple[session.Attempts, Future[float]]]:
    found: list[tuple[session.Attempts, Future[float]]] = []
    for _ in range(count):
        found.append((session.Attempts(core, im.protocol.hide([7]), 0.0), Future()))
        found[-1][0].begin(found[-1][1], 0.0)
    return found


def test_commands_are_sent_more_slowly_after_each_rate_limit() -> None:
    core = session.MessengerCore("101", "bob", 1)
    commands = begun(core, 3)
    logged_in(core, {"recovered": True})
    assert [turn.result(0) for _, turn in commands] == [0.0, 0.0, 0.0]
    for spacing in (0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        core.lost(4003, 10.0)
        turns: list[Future[float]] = [Future() for _ in commands]
        for number in (2, 0, 1):  # they may begin again in any order
            commands[number][0].begin(turns[number], 10.0)
        logged_in(core, {"recovered": True}, 20.0)
        assert [turn.result(0) for turn in turns] == pytest.approx(
            [20, 20 + spacing, 20 + 2 * spacing]
        )
    ((_, later),) = begun(core, 1)
    assert later.result(0) == pytest.approx(23.0)
    core = session.MessengerCore("101", "bob", 1)
    (given_up, no_turn), (_, turn) = begun(core, 2)
    given_up.forget_turn()
    core.close()
    assert (no_turn.done(), turn.done()) == (False, True)
    ((_, turn),) = begun(core, 1)
    assert turn.done()


# --- channels -----------------------------------------------------------------

NEWS: dict[str, Any] = {"channel": "news"}


def publication(offset: int, epoch: str = "e") -> dict[str, Any]:
    return {
        **NEWS,
        "epoch": epoch,
        "offset": offset,
        "type": "text",
        "text": f"p{offset}",
    }


def pushed(cmd: str, data: Any) -> str:
    return reply("1", cmd, data=data)


def subscribed(
    core: session.SessionCore[Any] | None = None,
) -> session.SessionCore[Any]:
    """A session that has subscribed, as a shell does."""
    core = core or online()
    core.subscriptions.add("news", lambda: "t", None)
    seq, frame = core.subscribe_command("news")
    answer: Future[im.Reply] = Future()
    core.answers.add(seq, answer, frame)
    core.feed(reply(seq, "subscribe", data={**NEWS, "epoch": "e", "offset": 3}), 0)
    assert answer.result(0).ok
    return core


def reconnected(core: session.SessionCore[Any]) -> dict[str, Any]:
    """Lose the connection and come back; return the command that subscribes
    again."""
    core.lost(1006, 0)
    (again,) = logged_in(core)
    assert again["cmd"] == "subscribe"
    return again


def taken(core: session.SessionCore[Any]) -> list[Any]:
    return [core.take() for _ in range(core.waiting)]


def offsets(events: list[Any]) -> list[int]:
    return [event.offset for event in events]


def with_channels(count: int) -> session.PushCore:
    core = session.PushCore("101", "ann")
    for number in range(count):
        core.subscriptions.add(f"c{number}", "", None)
    return core


def answer_subscribe(
    core: session.SessionCore[Any], request: dict[str, Any], now: float = 0.0
) -> None:
    core.feed(
        reply(
            request["seq"], "subscribe", data={"channel": request["data"]["channel"]}
        ),
        now,
    )


@pytest.mark.parametrize(
    "core", [session.PushCore("101", "ann"), session.MessengerCore("101", "bob", None)]
)
def test_a_subscription_comes_back_with_its_position_and_returns_each_publication_once(
    core: Any,
) -> None:
    begin(core, 0)
    core.feed(reply(sent(core)[0]["seq"], "login"), 0)
    sent(core)
    subscribed(core)
    core.feed(pushed("publication", publication(4)), 0)
    core.lost(1006, 0)
    again = [frame for frame in logged_in(core) if frame["cmd"] == "subscribe"]
    assert [frame["data"] for frame in again] == [
        {**NEWS, "token": "t", "epoch": "e", "offset": 4}
    ]
    answer = {**NEWS, "epoch": "e", "offset": 6, "recovered": True}
    missed = [publication(5), publication(6)]
    core.feed(
        reply(again[0]["seq"], "subscribe", data={**answer, "publications": missed}), 0
    )
    for offset in (6, 7):
        core.feed(pushed("publication", publication(offset)), 0)
    assert offsets(taken(core)) == [4, 5, 6, 7]


def stream_frame(piece: int, text: str, **more: Any) -> str:
    return pushed(
        "stream", {**NEWS, "stream": "s", "piece": piece, "text": text, **more}
    )


def test_a_streamed_message_is_returned_as_the_text_so_far() -> None:
    core = subscribed()
    for frame in (
        stream_frame(3, "lost"),
        stream_frame(
            3, "abc", whole=True, type="answer", tags={"lang": "en"}, **{"from": "bot"}
        ),
        stream_frame(4, "d"),
        stream_frame(4, "d"),
        stream_frame(6, "f"),
        stream_frame(6, "abcdef", whole=True),
        pushed(
            "publication",
            {**publication(4), "text": "abcdefg", "stream": "s", "incomplete": True},
        ),
        stream_frame(0, "", whole=True),
        stream_frame(0, "", whole=True, done=True),
        stream_frame(7, "late"),
        stream_frame(1, "broken", whole="yes"),
    ):
        core.feed(frame, 0)
    events = taken(core)
    head = {"type": "answer", "sender": "bot", "tags": {"lang": "en"}}
    assert events[:2] == [
        im.StreamUpdate("news", "s", text, **head) for text in ("abc", "abcd")
    ]
    assert events[2] == im.StreamUpdate("news", "s", "abcdef")
    assert events[3] == im.StreamUpdate("news", "s", "abcdefg", True, True, type="text")
    assert isinstance(events[4], im.Publication)
    assert (events[4].stream, events[4].incomplete, events[4].offset) == ("s", True, 4)
    assert events[5:] == [
        im.StreamUpdate("news", "s", ""),
        im.StreamUpdate("news", "s", "", True),
    ]
    core = subscribed()
    core.feed(stream_frame(1, "a", whole=True), 0)
    again = reconnected(core)
    answer = {**NEWS, "epoch": "e", "offset": 3, "recovered": True}
    core.feed(reply(again["seq"], "subscribe", data=answer), 0)
    core.feed(stream_frame(2, "b"), 0)
    core.feed(stream_frame(2, "ab", whole=True), 0)
    assert [event.text for event in taken(core)] == ["a", "ab"]


@pytest.mark.parametrize(
    "data", [{**NEWS, "epoch": "f", "offset": 9, "recovered": False}, NEWS]
)
def test_a_session_learns_that_publications_may_be_missing(
    data: dict[str, Any],
) -> None:
    core = subscribed()
    again = reconnected(core)
    core.feed(reply(again["seq"], "subscribe", data=data), 0)
    assert taken(core) == [im.ChannelNotice("reload", "news")]
    core.feed(pushed("publication", publication(10, "f")), 0)
    assert offsets(taken(core)) == [10]


def test_a_subscription_that_has_lost_publications_begins_again_and_others_end() -> (
    None
):
    core = subscribed()
    core.feed(pushed("unsubscribed", {**NEWS, "code": 2500}), 0)
    (again,) = sent(core)
    assert again["data"]["offset"] == 3
    core.feed(reply(again["seq"], "subscribe", 1003, {"refused": "denied"}), 0)
    assert taken(core) == [
        im.ChannelNotice("ended", "news", code=1003, refused="denied")
    ]
    core.subscriptions.add("news", "", None)
    core.feed(pushed("unsubscribed", {**NEWS, "code": 2000}), 0)
    assert taken(core) == [im.ChannelNotice("ended", "news", code=2000)]
    assert sent(core) == []
    core = subscribed()
    core.feed(reply(reconnected(core)["seq"], "subscribe", 1008), 0)
    assert core.close_code == CLOSE_TRY_AGAIN
    core.subscriptions.remove("news")
    core.subscriptions.add("news", lambda: str(1 // 0), None)
    core.lost(1006, 0)
    assert logged_in(core) == []
    assert core.close_code == CLOSE_TRY_AGAIN


def test_a_subscription_that_was_given_up_ends_on_the_server() -> None:
    core = online()
    ended = [("unsubscribe", NEWS)]
    for answered in (False, True):
        core.subscriptions.add("news", "", None)
        with pytest.raises(ValueError, match="already subscribed"):
            core.subscriptions.add("news", "", None)
        seq, _ = core.subscribe_command("news")
        if not answered:
            core.give_up("news")
            assert sent(core) == []
        core.feed(reply(seq, "subscribe", data=NEWS), 0)
        if answered:
            core.give_up("news")
        assert [(frame["cmd"], frame["data"]) for frame in sent(core)] == ended
    assert (taken(core), list(core.subscriptions)) == ([], [])


@pytest.mark.parametrize("answered", [False, True])
def test_a_subscription_that_was_given_up_does_not_end_the_next_one(
    answered: bool,
) -> None:
    core = online()
    core.subscriptions.add("news", "", None)
    old, _ = core.subscribe_command("news")
    old_answer = reply(old, "subscribe", data={**NEWS, "epoch": "e", "offset": 3})
    if answered:
        core.feed(old_answer, 0)
    core.give_up("news")
    core.subscriptions.add("news", "", im.Position("e", 2))
    seq, _ = core.subscribe_command("news")
    assert [(frame["cmd"], frame["data"]) for frame in sent(core)] == [
        ("unsubscribe", NEWS)
    ], "before it"
    if not answered:
        core.feed(old_answer, 0)
        assert taken(core) == []
    answer = {
        **NEWS,
        "epoch": "e",
        "offset": 3,
        "recovered": True,
        "publications": [publication(3)],
    }
    core.feed(reply(seq, "subscribe", data=answer), 0)
    assert offsets(taken(core)) == [3]
    assert sent(core) == []


def test_notices_malformed_events_and_frames_that_nobody_has_taken() -> None:
    core = online()
    core.feed(pushed("join", {**NEWS, "info": {"user": "bob", "client": "c"}}), 0)
    core.feed(pushed("publication", {**NEWS, "data": {"n": 1}, "from": "shop"}), 0)
    for data in (None, [], {"channel": 7}):
        core.feed(pushed("publication", data), 0)
        core.feed(pushed("leave", data), 0)
    notice, found = taken(core)
    assert notice == im.ChannelNotice("join", "news", {"user": "bob", "client": "c"})
    assert found == im.Publication("news", data={"n": 1}, sender="shop")
    assert found.position is None
    core = online()
    for channel in ("news", "sport"):
        core.give_up(channel)
    next(iter(core.to_send()))
    assert [frame["data"]["channel"] for frame in sent(core)] == ["sport"]


def test_a_session_subscribes_to_few_channels_at_a_time_and_more_slowly_after_a_rate_limit() -> (
    None
):
    core = with_channels(session.MAX_SUBSCRIBING + 2)
    requests = logged_in(core)
    assert len(requests) == session.MAX_SUBSCRIBING
    answer_subscribe(core, requests[7])
    assert [frame["data"]["channel"] for frame in sent(core)] == [
        f"c{session.MAX_SUBSCRIBING}"
    ]
    core.subscriptions.remove(f"c{session.MAX_SUBSCRIBING + 1}")
    answer_subscribe(core, requests[0])
    assert sent(core) == []
    core = with_channels(2)
    logged_in(core)
    core.lost(4003, 0)
    for spacing in (0.05, 0.025, 0.0125, 0.00625):
        (request,) = logged_in(core)
        answer_subscribe(core, request)
        assert core.deadline == spacing
        core.tick(spacing)
        (request,) = sent(core)
        answer_subscribe(core, request, spacing)
        core.lost(1006, 1)
    assert len(logged_in(core)) == 2

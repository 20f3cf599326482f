"""With keys, an app without a login rule takes nobody, and no way around a login rule leads into an app."""

import json
from urllib.parse import urlencode

import pytest

from tests.integration import gochat
from tests.integration.cmd import get, logged_in
from tests.integration.raw import ask, bearer, request
from tests.integration.v1 import call
from tests.security.attack_setting import (
    AUTHORISED,
    BARE,
    GOOD,
    OPEN,
    REFUSED,
    TOKENS,
    action_login,
    client_enters,
    login,
    session_token,
    stream_opens,
)
from tests.support import Server


def page_token(server: Server, app: str) -> tuple[str, str]:
    """User and token that the chat page of an app hands out; both ``""`` where it hands out none."""
    answer = get(server.http, "/home/index", appID=app)
    _, found, rest = answer.body.partition(b'id="page-data">')
    if not found:
        return "", ""
    data = json.loads(rest.partition(b"</script>")[0])
    return data.get("user") or "", data.get("token") or ""


# --- apps without a login rule ------------------------------------------------------------------------------


def test_an_app_without_a_login_rule_refuses_all_logins(guarded: Server) -> None:
    assert login(guarded.ws, BARE, "7") in REFUSED
    assert login(guarded.ws, BARE, "7", "anything") in REFUSED
    assert not stream_opens(guarded.http, BARE, "7")
    assert action_login(guarded.ws, "7") != GOOD
    assert not client_enters(guarded.ws, "nobody-made-it")


def test_an_open_app_takes_anybody(guarded: Server) -> None:
    assert login(guarded.ws, OPEN, "7") == GOOD
    assert stream_opens(guarded.http, OPEN, "7")


@pytest.mark.parametrize("app", [BARE, AUTHORISED, TOKENS])
def test_a_page_hands_out_no_token_unless_the_app_is_open(guarded: Server, app: str) -> None:
    user, token = page_token(guarded, app)
    assert not token
    answer = ask(guarded.http, request(f"/home/token?{urlencode({'appID': app, 'userID': user or '7'})}"))
    assert b"page." not in answer.body


def test_the_token_of_a_page_lists_and_sends_in_its_own_app_only(guarded: Server) -> None:
    user, token = page_token(guarded, OPEN)
    assert login(guarded.ws, OPEN, user, token) == GOOD
    assert login(guarded.ws, OPEN, "somebody else", token) in REFUSED
    for app in (BARE, AUTHORISED, TOKENS):
        assert login(guarded.ws, app, user, token) in REFUSED
        assert ask(guarded.http, bearer(request(f"/user/list?appID={app}"), token)).json["code"] == 1003


# --- accounts of another app --------------------------------------------------------------------------------


def test_the_token_of_an_account_is_good_in_its_own_app_only(guarded: Server) -> None:
    user, token = gochat.register(guarded.http)
    with logged_in(guarded.ws, user, int(TOKENS), serviceToken=session_token(TOKENS, user)) as victim:
        assert login(guarded.ws, TOKENS, user, token) in REFUSED
        assert not stream_opens(guarded.http, TOKENS, user, token)
        for route, body in (
            ("messages/send", {"app": TOKENS, "to": user, "text": "hi"}),
            (f"messages/sync?app={TOKENS}&after=0", None),
            (f"conversations?app={TOKENS}", None),
            (f"uploads?app={TOKENS}&user={user}", None),
        ):
            assert call(guarded.http, route, body, key=token).status in (400, 401, 403), route
        victim.no_push()

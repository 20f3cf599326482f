"""Mails about unread conversations: who gets which, when, and what becomes of
those that are not taken."""

import re
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.message import EmailMessage
from math import inf
from pathlib import Path
from time import time
from typing import Any

import pytest
from msgspec import json
from msgspec.structs import replace

from imserver.backends.webhooks.consumer import DeliveryLease
from imserver.backends.webhooks.event_rows import EventStore, StoredEvent
from imserver.gateway.config.settings import AppSettings, settings_of
from imserver.notifications import decisions, digests
from imserver.notifications.contract import ConversationWish, QuietHours, Wishes
from imserver.notifications.declared import AppNotifySettings, NotifyOfApp
from imserver.notifications.mail import Mails
from imserver.notifications.parts import notifications_of
from imserver.notifications.rows import NotificationRows
from imserver.people.accounts.contract import Account
from imserver.people.accounts.declared import SmtpSettings
from imserver.people.accounts.parts import accounts_of
from tests.rows import ROUTES, sections
from tests.security.mail import Sink
from tests.security.node_harness import APPS, Harness, config
from tests.support import until
from tests.users import User

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")

PAGE = "https://im.example.com/home/messages"
ANSWER = "https://im.example.com/answer"
ANSWER_PATH = "/api/v1/notifications/answer"
STOP = "https://im.example.com/stop?token=t"
SOON = Wishes(mail="soon")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, sink: Sink) -> Iterator[Harness]:
    """In 202 notifications have no texts."""
    hidden = replace(
        APPS["202"], of_features=(NotifyOfApp(AppNotifySettings(preview=False)),)
    )
    harness = Harness(
        config(
            Path(tmp_path_factory.mktemp("mails")),
            apps={**APPS, "202": hidden},
            of_features=sections(
                accounts={"registration": True, "registrations_per_address": 0},
                smtp=sink.settings,
            ),
        )
    )
    notifications_of(harness.node.core).mails.stop()  # tests send in its place
    yield harness
    harness.close()


@pytest.fixture(autouse=True)
def quick(hasty_consumers: None) -> None:
    """Short pauses while the mail server is away."""


class Post:
    """What sends mails on a node, and what comes of it."""

    def __init__(self, node: Harness, sink: Sink) -> None:
        self.node = node
        self.sink = sink
        self.rows = NotificationRows(node.node.core.store)
        self.lease = DeliveryLease(inf)
        self.mails = self.restarted()

    def restarted(self, **smtp: Any) -> Mails:
        """What a node has after a restart."""
        core = self.node.node.core
        return Mails(
            core,
            self.rows,
            replace(settings_of(core.config, SmtpSettings), **smtp),
            self.lease,
            self.rows.apps,
            lambda app: PAGE if app == "gochat" else "",
            lambda _app, _user: STOP,
            lambda _app, _user, message: f"{ANSWER}?token={message}",
            "im.example.com",
            lambda app, kind: (app, kind) == ("gochat", "notified"),
        )

    def wants(self, user: User, wishes: Wishes = SOON) -> None:
        self.rows.set_wishes(user.app, user.user, wishes)

    def is_due(self, user: User) -> None:
        """The notifier has found that the user may need a mail by now."""
        self.rows.decide(user.app, [], [], [], mail={user.user: int(time() * 1000) - 1})

    def send(self, *users: User) -> list[EmailMessage]:
        """The mails that users get now; each may get one."""
        before = len(self.sink.messages)
        for user in users:
            self.is_due(user)
        self.mails.restart()
        until(lambda: not any(self.due_of(user) for user in users))
        return self.sink.messages[before:]

    def events(self) -> list[StoredEvent]:
        return EventStore(self.node.node.core.store).read("gochat", 0, 100)

    def hours_pass(self, hours: int) -> None:
        """All that was stored, and mailed, is so much older."""
        store = self.node.node.core.store
        store.execute("UPDATE message SET stored_at = stored_at - %s", (hours * 3600,))
        statement = "UPDATE notify_person SET mailed = mailed - %s WHERE mailed > 0"
        store.execute(statement, (hours * 3_600_000,))

    def due_of(self, user: User) -> int:
        """1: a mail to this user is due."""
        found, _ = self.rows.mails_due(user.app, int(time() * 1000), 1000)
        return sum(one.user == user.user for one in found)

    def next_due(self, user: User) -> float:
        """The hours until the next mail of a user is looked at; 0: it is
        not."""
        found, _ = self.rows.mails_due(user.app, 1 << 60, 1000)
        return (
            next((one.due / 1000 - time() for one in found if one.user == user.user), 0)
            / 3600
        )


@pytest.fixture
def post(node: Harness, sink: Sink) -> Iterator[Post]:
    post = Post(node, sink)
    yield post
    sink.answers = []
    post.mails.stop()


def person(
    node: Harness, name: str, mail: bool = True, is_confirmed: bool = True
) -> User:
    """Somebody with an account. Each test has its own people."""
    email = {"email": f"{name}@example.com"} if mail else {}
    user = User.register(node, "gochat", name=name, nickname=name.title(), **email)
    if is_confirmed:
        accounts_of(node.node.core).rows.confirm_email(int(user.user), lambda _: True)
    return user


def say(sender: User, to: User, *texts: str) -> int:
    """Send messages; the number of the conversation."""
    for text in texts:
        found = sender.post("messages/send", to=to.user, text=text)
    return int(found["conversation"])


def read(user: User, conversation: int) -> None:
    last = user.get("messages/sync", after=0, limit=200)["messages"][-1]["id"]
    user.post("messages/read", conversation=conversation, id=last)


def parts_of(mail: EmailMessage) -> tuple[str, str]:
    """The text, and the HTML."""
    found = [mail.get_body((kind,)) for kind in ("plain", "html")]
    text, html = (part.get_content() for part in found if part is not None)
    return text, html


# --- content ------------------------------------------------------------------


def test_a_mail_shows_the_newest_unread_messages_of_others(
    node: Harness, post: Post
) -> None:
    ann, bob, cleo = (person(node, name) for name in ("ann", "bob", "cleo"))
    post.wants(ann)
    read(ann, say(bob, ann, "read already"))
    conversation = say(bob, ann, "one", "two <b>&amp;</b>", "three\nlines")
    say(ann, bob, "from Ann herself")
    group = int(bob.group(ann, cleo))
    for number in range(5):
        cleo.post("messages/send", conversation=group, text=f"group {number}")
    (mail,) = post.send(ann)
    (event,) = post.events()
    facts = {
        "user": ann.user,
        "kind": "mail",
        "conversation": 0,
        "entry": 0,
        "endpoint": 0,
    }
    assert (event.kind, json.decode(event.body)) == ("notified", facts)
    assert post.sink.mails[-1][:2] == ("im@example.com", ["ann@example.com"])
    assert mail["Subject"] == "8 unread messages in 2 conversations"
    assert (mail["From"], mail["To"]) == ("im@example.com", "ann@example.com")
    assert (mail["Auto-Submitted"], mail["Content-Language"]) == (
        "auto-generated",
        "en",
    )
    assert mail["Message-ID"].endswith("@example.com>")
    assert mail["Date"]
    assert mail["List-Unsubscribe"] == f"<{STOP}>"
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    text, html = parts_of(mail)
    assert not re.search(r"<(img|link|script|iframe)|url\(|@import|src=\"", html)
    assert "prefers-color-scheme: dark" in html
    order = [
        text.index(word)
        for word in ("tea", "group 2", "group 4", "Bob", "one", "three lines")
    ]
    assert order == sorted(order)
    for content in (text, html):
        for absent in ("read already", "Ann herself", "group 1"):
            assert absent not in content
        links = f"{PAGE}#c/{conversation}", f"{PAGE}#c/{group}", STOP
        for present in (
            "group 2",
            "group 4",
            "three lines",
            "Cleo",
            "2 earlier messages",
            *links,
        ):
            assert present in content
    assert "two <b>&amp;</b>" in text
    assert "two &lt;b&gt;&amp;amp;&lt;/b&gt;" in html


def test_the_language_is_that_of_the_user(node: Harness, post: Post) -> None:
    hal = person(node, "hal")
    ida = person(node, "ida")
    post.wants(
        hal, replace(SOON, language="zh-CN", quiet=QuietHours(zone="Asia/Shanghai"))
    )
    say(ida, hal, "你好")
    (mail,) = post.send(hal)
    assert (mail["Subject"], mail["Content-Language"]) == (
        "Ida 发来 1 条未读消息",
        "zh-CN",
    )
    for content in parts_of(mail):
        assert "您有 1 条未读消息" in content
        assert "UTC" not in content


def test_an_open_question_has_a_link_for_each_answer(node: Harness, post: Post) -> None:
    ann, bob, eve = (person(node, f"{name}-asks") for name in ("ann", "bob", "eve"))
    options = [{"text": "Yes & now", "value": "yes/1"}, {"text": "No", "value": "no"}]
    question = ann.post("asks/create", to=bob.user, text="Deploy?", options=options)
    ann.post("asks/create", to=eve.user, text="Tea?", options=options)
    for user in (bob, eve):
        post.wants(user)
    closed = eve.get("messages/sync", after=0, limit=9)["messages"][-1]["id"]
    eve.post("asks/answer", id=closed, value="no")
    mails = [parts_of(mail) for mail in post.send(bob, eve)]
    ((text, html),) = (parts for parts in mails if "Question: Deploy?" in parts[0])
    ((closed_text, closed_html),) = (
        parts for parts in mails if "Question: Tea?" in parts[0]
    )
    url = f"{ANSWER}?token={question['id']}&value="
    assert f"Yes & now: {url}yes%2F1" in text
    assert f'href="{url.replace("&", "&amp;")}no"' in html
    assert "Yes &amp; now</a>" in html
    assert ANSWER not in closed_text + closed_html


class AnswerPage:
    """The page behind the mail of a question, of one user."""

    def __init__(self, node: Harness, user: User, question: int) -> None:
        self.node = node
        self.token = notifications_of(node.node.core).tokens.make_ask(
            "gochat", user.user, question
        )

    def ask(self, method: str, chosen: str = "", **form: str) -> tuple[int, str]:
        route = next(
            row for row in ROUTES if (row.method, row.path) == (method, ANSWER_PATH)
        )
        query = {"token": self.token, **({"value": chosen} if chosen else {})}
        answer = self.node.ask(route, query=query, body=form)
        assert dict(answer.headers)["Content-Security-Policy"].startswith(
            "default-src 'none'; "
        )
        assert "<script" not in answer.body.decode()
        return answer.status, answer.body.decode()


def test_a_question_is_answered_on_the_page_behind_its_mail_and_never_by_a_link(
    node: Harness,
) -> None:
    ann, bob, eve = (person(node, f"{name}-page") for name in ("ann", "bob", "eve"))
    options = [{"text": "Yes & now", "value": "yes"}, {"text": "No", "value": "no"}]
    group = ann.post("groups/create", name="tea", members=[bob.user, eve.user])["group"]
    fields = {"text": "<b>Deploy?</b>", "options": options, "seconds": 60}
    question = ann.post("asks/create", conversation=int(group), **fields)
    first, second = (AnswerPage(node, user, question["id"]) for user in (bob, eve))
    for value in ("", "no", "?"):
        status, html = first.ask("GET", value)
        assert status == 200
        assert "Question from Ann-Page" in html
        assert "&lt;b&gt;Deploy?&lt;/b&gt;" in html
        assert '<button name="value" value="yes"' in html
        assert html.count('class="quiet"') == (value == "no")
    assert ann.post("asks/get", id=question["id"])["answers"] == []
    assert (
        '<p class="outcome" role="status" dir="auto">You answered: No</p>'
        in first.ask("POST", "yes", value="no")[1]
    )
    assert first.ask("POST", value="no")[0] == 200
    for method in ("GET", "POST"):
        status, html = second.ask(
            method, "yes", **({"value": "yes"} if method == "POST" else {})
        )
        assert (status, "<form" in html) == (200, False)
        assert "Bob-Page answered: No" in html
    (answer,) = ann.post("asks/get", id=question["id"])["answers"]
    assert (answer["user"], answer["value"]) == (bob.user, "no")


def test_the_page_behind_a_mail_takes_own_words_in_the_language_of_the_user(
    node: Harness, post: Post
) -> None:
    ann = person(node, "ann-words")
    bob = person(node, "bob-words")
    post.wants(bob, replace(SOON, language="de"))
    question = ann.post(
        "asks/create", to=bob.user, text="Welches Wort?", free_text=True
    )
    page = AnswerPage(node, bob, question["id"])
    assert '<input name="text" maxlength="1000" required' in page.ask("GET")[1]
    assert page.ask("POST", text="  ")[1].count("<form") == 1
    status, html = page.ask("POST", text="<b>" + "Tee" * 333)
    assert (status, "zu lang: Höchstens 1000 Zeichen" in html) == (400, True)
    assert f'value="&lt;b&gt;{"Tee" * 333}"' in html
    assert (
        "Du hast geantwortet: Tee &amp; mehr"
        in page.ask("POST", text=" Tee & mehr ")[1]
    )
    late = ann.post("asks/create", to=bob.user, text="Jetzt?", free_text=True)
    ann.post("asks/cancel", id=late["id"])
    assert (
        "Die Frage wurde zurückgezogen"
        in AnswerPage(node, bob, late["id"]).ask("GET")[1]
    )


def test_a_link_that_is_not_valid_says_so(node: Harness) -> None:
    ann, bob, eve = (person(node, f"{name}-gone") for name in ("ann", "bob", "eve"))
    question = ann.post("asks/create", to=bob.user, text="Deploy?", free_text=True)
    page = AnswerPage(node, eve, question["id"])  # who may not read it
    broken = AnswerPage(node, bob, question["id"])
    broken.token = f"A{broken.token}"
    for each in (page, broken):
        for method in ("GET", "POST"):
            status, html = each.ask(
                method, **({"text": "yes"} if method == "POST" else {})
            )
            assert (status, "This link is not valid any more." in html) == (404, True)
    assert ann.post("asks/get", id=question["id"])["answers"] == []


def test_a_user_and_an_app_can_hide_texts_and_there_is_no_link_without_a_page(
    node: Harness, post: Post
) -> None:
    jan = person(node, "jan")
    kim = person(node, "kim")
    post.wants(jan, replace(SOON, preview=False))
    say(kim, jan, "a secret", "and another secret")
    (mail,) = post.send(jan)
    assert not any(
        "secret" in content for content in (*parts_of(mail), mail["Subject"])
    )
    assert "Kim · 2 unread messages" in parts_of(mail)[0]
    rows = accounts_of(node.node.core).rows
    ann, bob = (
        rows.add(
            Account(0, "202", "", name.title(), email=f"{name}@example.org", name=name),
            "",
        )
        for name in ("ann", "bob")
    )
    rows.confirm_email(ann.id, lambda _: True)
    token = accounts_of(node.node.core).accounts.token(bob).token
    user = User(node, "", ann.user, "202")
    post.wants(user)
    say(User(node, token, bob.user, "202"), user, "a secret")
    (mail,) = post.send(user)
    text, html = parts_of(mail)
    assert "secret" not in text + html
    assert "Bob · 1 unread message" in text
    assert set(re.findall(r"https?://[^\s\"<>]+", text + html)) == {STOP}


def test_wishes_for_conversations_and_blocks_hold_for_mails_too(
    node: Harness, post: Post
) -> None:
    leo, mia, nat, oli, pia = (
        person(node, name) for name in ("leo", "mia", "nat", "oli", "pia")
    )
    post.wants(leo)
    muted = say(mia, leo, "muted")
    silent = say(nat, leo, "silent")
    group = int(oli.group(leo, pia))
    oli.post("messages/send", conversation=group, text="for @Leo", mentions=[leo.user])
    for number in range(4):
        oli.post("messages/send", conversation=group, text=f"for nobody {number}")
    blocked = int(oli.group(leo, pia))
    pia.post("messages/send", conversation=blocked, text="from a blocked one")
    leo.post("friends/block", friend=pia.user)
    for wish in (
        ConversationWish(muted, muted_until=int(time()) + 60),
        ConversationWish(silent, "nothing"),
        ConversationWish(group, "mentions"),
    ):
        post.rows.set_conversation_wish("gochat", leo.user, wish)
    (mail,) = post.send(leo)
    assert mail["Subject"] == "1 unread message in tea"
    assert "for @Leo" in parts_of(mail)[0]
    assert "for nobody" not in parts_of(mail)[0]
    post.rows.set_conversation_wish(
        "gochat", leo.user, ConversationWish(group, "nothing")
    )
    assert post.send(leo) == []


def test_a_mail_has_a_limit(
    node: Harness, post: Post, constants: Callable[..., None]
) -> None:
    constants(digests, CONVERSATIONS=2, _PAGE=2)
    quin, *others = (person(node, name) for name in ("quin", "rex", "sam", "tom"))
    post.wants(quin)
    for other in others:
        say(other, quin, f"from {other.account['name']}")
    (mail,) = post.send(quin)
    text, _ = parts_of(mail)
    assert mail["Subject"] == "2+ unread messages in 2+ conversations"
    assert "from tom" in text
    assert "from sam" in text
    assert "from rex" not in text
    assert "other conversations" in text


# --- when ---------------------------------------------------------------------


def test_nothing_is_sent_to_whom_it_is_not_for(node: Harness, post: Post) -> None:
    """Who has read everything, wants no mail, or has no address."""
    una, vic, wes, xia = (
        person(node, name, mail=name != "xia") for name in ("una", "vic", "wes", "xia")
    )
    for user in (una, wes, xia):
        post.wants(user)
    read(una, say(vic, una, "hi"))
    say(vic, xia, "hi")
    say(vic, wes, "hi")
    post.is_due(wes)
    post.wants(wes, Wishes())
    assert post.send(una, xia, wes) == []
    assert [post.next_due(user) for user in (una, xia, wes)] == [0, 0, 0]
    stranger = User(node, "", "no account", "gochat")
    post.wants(stranger)
    assert post.send(stranger) == []
    ivo = person(node, "ivo")
    jil = person(node, "jil")  # nor to who is banned
    post.wants(ivo)
    say(jil, ivo, "secret")
    sessions = node.node.core.sessions
    sessions.close(ivo.app, [ivo.user], ban_seconds=60)
    assert post.send(ivo) == []
    sessions.unban(ivo.app, [ivo.user])
    assert len(post.send(ivo)) == 1


def test_an_address_that_nobody_has_confirmed_gets_no_words_of_users(
    node: Harness, post: Post
) -> None:
    """It is question for a confirmation instead, once in the life of the
    account."""
    eve = person(node, "eve", is_confirmed=False)
    mal = person(node, "mal")
    mails = accounts_of(node.node.core).resets.mails
    post.wants(eve)
    before = len(post.sink.mails)
    for _ in range(3):
        say(mal, eve, "Your account is in danger: https://evil.example")
        post.send(eve)
        until(lambda: not mails.waiting)
    ((_, (to,), text),) = post.sink.mails[before:]
    assert to == "eve@example.com"
    assert "/api/v1/accounts/email/confirm?token=" in text
    assert not any(word in text for word in ("evil", "Mal", "Eve"))
    accounts_of(node.node.core).rows.confirm_email(int(eve.user), lambda _: True)
    say(mal, eve, "hi")
    (mail,) = post.send(eve)
    assert mail["Subject"] == "4 unread messages from Mal"


def test_there_is_one_mail_for_an_absence(node: Harness, post: Post) -> None:
    yve = person(node, "yve")
    zoe = person(node, "zoe")
    post.wants(yve)
    conversation = say(zoe, yve, "first")
    assert len(post.send(yve)) == 1
    post.hours_pass(1)
    say(zoe, yve, "second")
    assert post.send(yve) == [], "nothing was read"
    assert 22.9 < post.next_due(yve) <= 23
    post.mails = post.restarted()
    assert post.send(yve) == [], "also after a restart"
    read(yve, conversation)
    say(zoe, yve, "third")
    (mail,) = post.send(yve)
    assert "third" in parts_of(mail)[0]
    assert "second" not in parts_of(mail)[0]
    # The next one comes after a day, with what is new.
    abe, bea, cal = (person(node, name) for name in ("abe", "bea", "cal"))
    post.wants(abe)
    say(bea, abe, "from Bea")
    assert len(post.send(abe)) == 1
    post.hours_pass(25)
    assert post.send(abe) == [], "there is nothing new"
    assert post.next_due(abe) == 0
    say(cal, abe, "from Cal")
    (mail,) = post.send(abe)
    assert mail["Subject"] == "1 unread message from Cal"
    post.hours_pass(25 * 8)
    assert post.send(abe) == [], "what is a week old is no news"


def test_daily_mails_and_quiet_hours_are_those_of_the_user(
    node: Harness, post: Post
) -> None:
    """The notifier says that a mail is due at eight: see test_decisions.py."""
    dan = person(node, "dan")
    eli = person(node, "eli")
    minutes = int(time() // 60) % 1440
    post.wants(dan, replace(SOON, quiet=QuietHours(minutes, (minutes + 120) % 1440)))
    say(eli, dan, "hi")
    assert post.send(dan) == []
    assert 1.9 < post.next_due(dan) <= 2
    post.wants(dan, Wishes(mail="daily"))
    assert len(post.send(dan)) == 1
    assert post.next_due(dan) == 0


# --- mail servers -------------------------------------------------------------


def test_mails_wait_for_a_server_that_is_away_and_are_not_sent_when_read_meanwhile(
    node: Harness, post: Post
) -> None:
    hugo, iris, jo = (person(node, name) for name in ("hugo", "iris", "jon"))
    for user in (hugo, iris):
        post.wants(user)
    read_later = say(jo, hugo, "hi Hugo")
    say(jo, iris, "hi Iris")
    post.mails = post.restarted(port=1)
    before = len(post.sink.messages)
    for user in (hugo, iris):
        post.is_due(user)
    post.mails.restart()
    until(lambda: post.mails.consumer.failures > 2)
    read(hugo, read_later)
    failures = post.mails.consumer.failures
    # what was tried before has ended
    until(lambda: post.mails.consumer.failures > failures + 1)
    post.mails.smtp = replace(post.mails.smtp, port=post.sink.port)
    until(lambda: not (post.due_of(hugo) or post.due_of(iris)))
    assert [to for _, to, _ in post.sink.mails[before:]] == [["iris@example.com"]]
    assert post.mails.counts == {("gochat", "mail", "taken"): 1}


def test_a_mail_that_is_refused_for_now_waits_alone(node: Harness, post: Post) -> None:
    kai, lea, moe = (person(node, name) for name in ("kai", "lea", "moe"))
    post.mails = post.restarted()
    for user in (kai, lea):
        post.wants(user)
        say(moe, user, "hi")
    post.sink.answers = ["451 later"]
    (mail,) = post.send(kai, lea)
    waiting, served = (lea, kai) if mail["To"] == "kai@example.com" else (kai, lea)
    assert 0 < post.next_due(waiting) < 0.1
    assert post.next_due(served) == 0
    assert len(post.send(waiting)) == 1


def test_a_mail_that_is_refused_for_good_is_dropped_and_the_wish_stays(
    node: Harness, post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    ned = person(node, "ned")
    ona = person(node, "ona")
    post.wants(ned)
    conversation = say(ona, ned, "hi")
    post.sink.answers = ["550 no such mailbox"]
    assert post.send(ned) == []
    assert "550" in caplog.text
    assert post.mails.counts == {("gochat", "mail", "refused"): 1}
    assert post.rows.wishes("gochat", [ned.user])[ned.user].mail == "soon"
    post.hours_pass(1)
    say(ona, ned, "again")
    assert post.send(ned) == [], "the address is tried once a day"
    read(ned, conversation)
    say(ona, ned, "news")
    assert len(post.send(ned)) == 1


def test_a_node_sends_mails_which_one_click_ends(
    tmp_path: Path, sink: Sink, constants: Callable[..., None]
) -> None:
    """From the wish to the mail, by the parts of a node."""
    constants(decisions, SOON_MINUTES=0)
    at_once = replace(
        APPS["gochat"], of_features=(NotifyOfApp(AppNotifySettings(after_seconds=0)),)
    )
    node = Harness(
        config(
            tmp_path,
            apps={**APPS, "gochat": at_once},
            app=AppSettings(http_url="https://im.example.com"),
            of_features=sections(accounts={"registration": True}, smtp=sink.settings),
        )
    )
    try:
        ann, bob = person(node, "ann"), person(node, "bob")
        assert ann.post("notifications/wishes", mail="soon", language="en")[
            "mail_possible"
        ]
        before = len(sink.messages)
        conversation = say(bob, ann, "tea?")
        until(lambda: len(sink.messages) > before)
        (mail,) = sink.messages[before:]
        assert f"{PAGE}#c/{conversation}" in parts_of(mail)[0]
        # the header as it stands in the mail
        plain = message_from_bytes(sink.contents[-1])
        assert plain["List-Unsubscribe"] == mail["List-Unsubscribe"]
        path, _, token = mail["List-Unsubscribe"].strip("<>").partition("?token=")
        path = path.removeprefix("https://im.example.com")
        assert node.call("POST", path, query={"token": token})[0] == 200
        assert ann.get("notifications/wishes")["mail"] == "never"
    finally:
        node.close()

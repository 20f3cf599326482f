"""Threads: list, read, follow and mute them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from imserver import errors
from imserver.auth.principal import Needs
from imserver.config.declared import about
from imserver.http.call import Call
from imserver.http.field import Acting
from imserver.http.operation import Resource
from imserver.http.reply import ApiProblem
from imserver.http.wire import view
from imserver.messages.api.conversations import Before, MessageId, MessageShown, PageLimit, shown_entry
from imserver.messages.log.threads import Thread, ThreadState
from imserver.messages.services import MessageServices
from imserver.messages.threads import ThreadCommands
from imserver.model import Limit

FirstMessage = Annotated[int, about("The message with which the thread begins.", ge=1, le=Limit.ID)]


class ThreadShown(ThreadState, frozen=True):
    """A thread as a user sees it."""

    message: Annotated[
        MessageShown | None, about("That message; null: it has expired, or the user may not read it.")
    ]


class ThreadAnswer(ThreadShown, frozen=True, kw_only=True):
    """A thread with a page of its replies, in the order of their ids."""

    messages: list[MessageShown]
    before: Annotated[int, about("`before` of the next page of older replies; 0: there are none.")]


class ThreadsAnswer(Struct):
    """Threads, those with the newest replies first."""

    threads: list[ThreadShown]
    before: Annotated[int, about("`before` of the next page; 0: this is the last.")]


def _shown(thread: Thread) -> ThreadShown:
    message = None if thread.message is None else shown_entry(thread.message)
    return view(ThreadShown, thread, message=message)


routes = Resource(
    "conversations",
    service=lambda core, _: core.service(MessageServices).threads,
    base=Acting,
    hot=False,
    problems=(errors.Problems.UNKNOWN_MESSAGE,),
)


@routes.get("/threads/list", Needs.ADMIN_OR_MEMBER)
def list_threads(
    threads: ThreadCommands, call: Call, before: Before = 0, limit: PageLimit = 50
) -> ThreadsAnswer:
    """List the threads that a user follows.

    Who writes in a thread, or is mentioned in it, follows it from then on, as does the author of its first
    message. Those with the newest replies come first.
    """
    page, more = threads.list(call.app, call.user, before, limit)
    return ThreadsAnswer([_shown(each) for each in page], page[-1].last if more else 0)


@routes.get("/threads/get", Needs.ADMIN_OR_MEMBER)
def get_thread(
    threads: ThreadCommands, call: Call, thread: FirstMessage, before: Before = 0, limit: PageLimit = 50
) -> ThreadAnswer:
    """Read the replies of a thread.

    The replies are messages of the conversation, whose history has them, too. Any message can begin a thread.
    """
    page = threads.page(call.app, call.user, thread, before, limit)
    if page is None:
        raise ApiProblem(errors.Problems.UNKNOWN_MESSAGE)
    messages = [shown_entry(entry) for entry in page.entries]
    return view(ThreadAnswer, _shown(page.thread), messages=messages, before=page.before)


@routes.post(
    "/threads/follow", Needs.ADMIN_OR_MEMBER, schema=("FollowRequest", "A thread to follow."), act=""
)
def follow_thread(
    threads: ThreadCommands,
    call: Call,
    thread: FirstMessage,
    remove: Annotated[bool, about("Mutes the thread: the user does not follow it any more.")] = False,
) -> ThreadShown:
    """Follow a thread, or mute it.

    A user is notified of the replies of the threads that they follow. A thread that was muted stays so, also
    if it mentions the user.
    """
    return _answer(threads.follow(call.app, call.user, thread, not remove))


@routes.post(
    "/threads/read",
    Needs.ADMIN_OR_MEMBER,
    schema=("ReadThreadRequest", "A thread and the last reply that the user has read."),
    act="",
)
def read_thread(threads: ThreadCommands, call: Call, thread: FirstMessage, id: MessageId) -> ThreadShown:
    """Mark a thread as read up to a reply.

    The position never moves back. It is stored for users who follow the thread, or have muted it.
    """
    return _answer(threads.read(call.app, call.user, thread, id))


def _answer(thread: Thread | None) -> ThreadShown:
    if thread is None:
        raise ApiProblem(errors.Problems.UNKNOWN_MESSAGE)
    return _shown(thread)

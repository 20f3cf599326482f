"""The stored messages of a channel."""

from __future__ import annotations

from imserver.auth.principal import Needs
from imserver.http import field
from imserver.http.call import Call
from imserver.http.operation import Resource
from imserver.messages.api.conversations import Before, MessagesAnswer, PageLimit, shown_entry
from imserver.messages.log.message_log import MessageLog
from imserver.storage.store import Store

routes = Resource("channels", service=lambda core, _: core.storage.store)


@routes.get(
    "/channels/messages",
    Needs.ADMIN,
    hot=False,
)
def messages(
    store: Store,
    call: Call,
    app: field.App,
    channel: field.ChannelName,
    before: Before = 0,
    limit: PageLimit = 50,
) -> MessagesAnswer:
    """List the stored messages of a channel, the newest page first.

    These are the publications of a stored channel, and in apps with `store_conversations` the messages of the
    room of the `action` dialect with this name.
    """
    page = store.part(MessageLog).entries.channel_page(
        call.app, channel, before or None, limit, reverse=True, revisions=True
    )
    shown = [shown_entry(each) for each in reversed(page.entries)]
    return MessagesAnswer(shown, shown[0].id if page.more else 0)

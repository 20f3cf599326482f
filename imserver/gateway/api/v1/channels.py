"""Channels: publish, history, and facts about a channel. Subscribers are in
:mod:`.subscribers`."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from imserver.gateway.api.v1.push import IDEMPOTENCY_KEY, event_of, key_of
from imserver.gateway.api.v1.push_request import MESSAGE_RULES, STATUSES, Sending
from imserver.gateway.auth.principal import Needs
from imserver.gateway.channels.histories import Published
from imserver.gateway.channels.members import MAX_TAG_BYTES, MAX_TAGS, ChannelRefused
from imserver.gateway.cluster.history import HistoryPage, Position
from imserver.gateway.config.declared import about
from imserver.gateway.errors import Problems
from imserver.gateway.http.call import Api, Call
from imserver.gateway.http.field import App, ChannelName
from imserver.gateway.http.operation import Resource
from imserver.gateway.http.reply import ApiProblem
from imserver.gateway.model import Event, Limit, Outcome
from imserver.gateway.push.idempotency import digest_of
from imserver.gateway.push.push import nothing_accepted

Offset = Annotated[
    int,
    about(
        "The number of a publication in the history of its channel. In a stored "
        "channel, the number is the id of the message in the log of the app. The "
        "numbers of a stored channel therefore have gaps.",
        ge=0,
    ),
]
Epoch = Annotated[
    str,
    about(
        "The epoch of the history. An offset is valid only in its own epoch.",
        max_length=64,
    ),
]
Tags = Annotated[
    dict[str, str],
    about(
        "The tags of the message, for clients that understand them: at most "
        f"{MAX_TAG_BYTES} bytes of JSON.",
        max_length=MAX_TAGS,
    ),
]
WithHistory = Annotated[
    bool,
    about(
        "False: subscribers receive the message, but the server does not add it to "
        "the history of the channel."
    ),
]


class ChannelPublishRequest(Sending, kw_only=True, omit_defaults=True):
    """A message to the subscribers of a channel. It has the fields of a
    push."""

    channel: ChannelName
    tags: Tags = field(default_factory=dict)
    with_history: WithHistory = True


class ChannelBroadcastRequest(Sending, kw_only=True, omit_defaults=True):
    """A message to the subscribers of several channels."""

    channels: Annotated[
        list[ChannelName], about("The channels.", min_length=1, max_length=1000)
    ]
    tags: Tags = field(default_factory=dict)
    with_history: WithHistory = True


class HistoryPosition(Struct, kw_only=True):
    """A position in the history of a channel, if it has one. Its fields come
    after the fields of subclasses."""

    offset: Offset | UnsetType = UNSET
    epoch: Epoch | UnsetType = UNSET


class ChannelResult(HistoryPosition):
    """The result for one channel."""

    channel: str
    status: Annotated[
        str,
        about(
            "`sent`: subscribers receive the message, or the history has it. "
            "`absent`: the channel has no subscribers and no history. `repeated`: "
            "this id was accepted before. `partly`: a node with subscribers does not "
            "answer. `failed`: this channel has not accepted the message, but other "
            "channels have; repeat the request with the same id. `refused`: the "
            "message is too long for this channel."
        ),
    ]


class ChannelBroadcastAnswer(Struct):
    """The results, in the order of the channels."""

    results: list[ChannelResult]


class ChannelQuery(Struct, forbid_unknown_fields=True):
    """A channel."""

    app: App
    channel: ChannelName


class PublicationShown(Struct, omit_defaults=True):
    """A publication in the history of a channel."""

    offset: Offset
    type: str
    text: Annotated[str | UnsetType, about("The message, if it is text.")] = UNSET
    data: Annotated[Raw | UnsetType, about("The message, if it is not text.")] = UNSET
    sender: str = ""
    id: str = ""
    tags: Annotated[
        dict[str, str] | UnsetType,
        about("The tags of the message: key-value pairs for clients."),
    ] = UNSET


class ChannelHistoryAnswer(Struct):
    """A page of the history. `offset` and `epoch` are the position of its
    newest publication."""

    publications: list[PublicationShown]
    offset: Offset
    epoch: Epoch


class ChannelInfo(HistoryPosition):
    """The state of a channel."""

    channel: str
    subscribers: Annotated[
        int, about("The number of subscribed connections. It may be a second old.")
    ]


class Removed(Struct):
    """The publications were removed."""

    channel: str


_USUAL_HISTORY_PAGE: Final = 100


def _refused(error: ChannelRefused) -> ApiProblem:
    """Make the problem of a refused request for a channel."""
    if error.reason == "unavailable":
        return ApiProblem(
            Problems.STORAGE_UNAVAILABLE, "The history of the channel does not answer"
        )
    return ApiProblem.invalid(str(error))


_fields_of = msgspec.json.Decoder(dict[str, Raw]).decode
"""Decodes a JSON object: name → JSON of the value."""


routes = Resource(
    "channels",
    lambda _, api: api,
    base=ChannelQuery,
    refusals={ChannelRefused: _refused},
)
_PUBLISHES: Final[dict[str, Any]] = {
    "takes_many": True,
    "act": "",
    "problems": (Problems.TOO_MANY_TARGETS, Problems.ID_REUSED, Problems.NOT_ACCEPTED),
    "headers": (IDEMPOTENCY_KEY,),
    "rules": MESSAGE_RULES,
}


@routes.post("/channels/publish", Needs.PUSH, **_PUBLISHES)
def publish(api: Api, call: Call, request: ChannelPublishRequest) -> ChannelResult:
    """Publish to a channel.

    Delivers a message to the subscribers of a channel, on all nodes. If the
    channel has a history, the message is in it before the server answers, and
    the answer has its position.

    The channel `user:<id>` reaches all devices of a user. The channel
    `group:<id>` reaches all devices of the members of a group. Messages on
    these channels have no `tags`.
    """
    (result,) = _publish(api, call, request, [request.channel])
    return result


@routes.post("/channels/broadcast", Needs.PUSH, **_PUBLISHES)
def broadcast(
    api: Api, call: Call, request: ChannelBroadcastRequest
) -> ChannelBroadcastAnswer:
    """Publish the same message to several channels."""
    return ChannelBroadcastAnswer(_publish(api, call, request, request.channels))


def _publish(
    api: Api,
    call: Call,
    request: ChannelPublishRequest | ChannelBroadcastRequest,
    channels: list[str],
) -> list[ChannelResult]:
    """Publish a message to each channel, only once for each key.

    The key is the Idempotency-Key of the request, or its id. Returns the
    results in the order of the channels. May switch greenlets. Raises
    :class:`ApiProblem`.
    """
    core = api.core
    if core.metrics.pushes.stops:
        core.metrics.pushes.require(call.app)
    # The checks come before anything is published.
    event = event_of(api.limits, request)
    if len(request.except_users) > api.limits.batch_targets:
        raise ApiProblem(Problems.TOO_MANY_TARGETS)

    key = key_of(call) or request.id
    digest = 0
    if key:
        content = _fields_of(msgspec.json.encode(request))
        # A claim is the right to publish with this key. Each channel has a
        # claim of its own, because a repetition may name more or fewer
        # channels.
        content.pop("channel", None)
        content.pop("channels", None)
        digest = digest_of(msgspec.json.encode(content))

    publications = core.publishing.to_channels(
        call.app,
        channels,
        event,
        except_users=tuple(request.except_users),
        tags=request.tags,
        with_history=request.with_history,
        key=key,
        digest=digest,
        all_or_none=True,
    )
    outcomes = [publication.outcome for publication in publications]
    # All have failed, so the client can repeat the request.
    if Outcome.FAILED in outcomes and nothing_accepted(outcomes):
        raise ApiProblem(Problems.NOT_ACCEPTED)
    return [
        _channel_result(channel, publication)
        for channel, publication in zip(channels, publications, strict=True)
    ]


def _channel_result(channel: str, published: Published) -> ChannelResult:
    """Make the result for one channel.

    If the channel has a history, the result has the position of the
    publication.
    """
    status = STATUSES[published.outcome]
    position = published.position
    if position is None:
        return ChannelResult(channel, status)
    return ChannelResult(channel, status, offset=position.offset, epoch=position.epoch)


@routes.get("/channels/history", Needs.READ)
def history(
    api: Api,
    call: Call,
    channel: ChannelName,
    offset: Annotated[
        int,
        about(
            "List publications after this offset, or before it with `reverse`. -1: "
            "start with the oldest publication, or with the newest with `reverse`.",
            ge=-1,
            le=Limit.ID,
        ),
    ] = -1,
    epoch: Epoch = "",
    limit: Annotated[
        int, about("The maximum number of publications.", ge=0, le=1000)
    ] = _USUAL_HISTORY_PAGE,
    reverse: Annotated[
        bool, about("Whether to list the newest publications first.")
    ] = False,
) -> ChannelHistoryAnswer:
    """List the retained publications of a channel.

    Without `offset`, the page begins with the oldest publication, or with the
    newest if `reverse` is set. If the history has another epoch than the given
    `epoch`, the page is empty. Then read the history again without `epoch`.
    """
    since = None
    if offset >= 0:
        since = Position(epoch, offset)
    page = api.channels.histories.read(call.app, channel, since, limit, reverse)
    position = page.position
    if epoch and epoch != position.epoch:
        page = HistoryPage([], position)
    publications = [_shown(event) for event in page.publications]
    return ChannelHistoryAnswer(
        publications=publications,
        offset=position.offset,
        epoch=position.epoch,
    )


def _shown(event: Event) -> PublicationShown:
    """Convert a publication of a history to the form of the answer.

    A payload that is JSON is in ``data``, and a text in ``text``.
    """
    part = event.channel
    assert part is not None
    publication = PublicationShown(
        part.offset, event.type, sender=event.sender, id=event.id
    )
    if event.data:
        publication.data = Raw(event.data)
    else:
        publication.text = event.text
    if part.tags:
        publication.tags = msgspec.json.decode(part.tags)
    return publication


@routes.post("/channels/history/remove", Needs.PUSH)
def remove_history(api: Api, call: Call, request: ChannelQuery) -> Removed:
    """Remove the retained publications of a channel, and keep its numbering.

    A stored channel refuses this request, because the log removes its messages
    by age or number.
    """
    api.channels.histories.remove(call.app, request.channel)
    return Removed(request.channel)


@routes.get("/channels/info", Needs.READ_OR_OPERATE)
def info(api: Api, call: Call, request: ChannelQuery) -> ChannelInfo:
    """Show the number of subscribers of a channel, and the position of its
    history."""
    app = call.app
    channels = api.channels
    channel = request.channel
    answer = ChannelInfo(channel, channels.members.count(app, channel))
    if channels.options.of(app, channel).has_history:
        position = channels.histories.read(app, channel).position
        answer.offset = position.offset
        answer.epoch = position.epoch
    return answer

"""Asks a running server of Mattermost by its REST API, version 4.

The fields are those of the server's ``model/post.go``, ``model/user.go``,
``model/channel.go`` and ``model/file_info.go``.
"""

from collections.abc import Collection, Iterable
from itertools import count
from typing import Any, Final, TypeVar

from msgspec import Struct, field

from . import mattermost
from .live import LiveError, Server

T = TypeVar("T")
_MOST_SINCE: Final = 1000
"""Posts in an answer to ``since``. If it has as many, it may lack some."""
_PER_PAGE: Final = 200
_GONE: Final = (403, 404)
_MOST_NAMES: Final = 100_000
"""Names that are remembered, also of nobody: any text may have some."""


class ServerTeam(mattermost.Team, kw_only=True):
    """A team, as an export has it, and its id."""

    id: str


class ServerChannel(Struct):
    """``type``: ``O`` (public), ``P`` (private), ``D`` (direct) or ``G``
    (direct, of several)."""

    id: str
    name: str
    type: str
    team_id: str = ""
    display_name: str = ""
    header: str = ""
    purpose: str = ""
    delete_at: int = 0
    last_post_at: int = 0


class ServerMember(Struct):
    """A member of a channel."""

    user_id: str
    roles: str = ""


class ServerUser(Struct):
    """A user, or a bot."""

    id: str
    username: str
    email: str = ""
    nickname: str = ""
    first_name: str = ""
    last_name: str = ""
    roles: str = ""
    delete_at: int = 0
    is_bot: bool = False


class ServerReaction(Struct):
    """A reaction to a post."""

    user_id: str
    post_id: str
    emoji_name: str


class FileInfo(Struct):
    """A file of a post."""

    id: str
    name: str = ""
    size: int = 0
    create_at: int = 0


class ServerEmoji(Struct):
    """An own emoji that a post or a reaction to it has."""

    id: str
    name: str


class Metadata(Struct):
    """What comes with a post."""

    reactions: list[ServerReaction] | None = None
    files: list[FileInfo] | None = None
    emojis: list[ServerEmoji] | None = None


class ServerPost(Struct):
    """``original_id``: an edited post has its older texts as deleted posts,
    which name it so. ``message_source``: the text, if the server has changed
    the addresses of pictures in ``message``."""

    id: str
    create_at: int
    update_at: int
    user_id: str
    channel_id: str
    edit_at: int = 0
    delete_at: int = 0
    root_id: str = ""
    original_id: str = ""
    message: str = ""
    message_source: str = ""
    type: str = ""
    is_pinned: bool = False
    props: dict[str, Any] | None = None
    metadata: Metadata = field(default_factory=Metadata)


class PostList(Struct):
    """An answer with posts. ``posts`` has those to which they reply, too."""

    order: list[str]
    posts: dict[str, ServerPost]


class MattermostServer:
    """A server as one account sees it. It remembers people, channels and
    members until it is told that they have changed. Raises LiveError."""

    def __init__(self, address: str, token: str) -> None:
        self.web = Server(f"{address}/api/v4", {"Authorization": f"Bearer {token}"})
        self.teams: dict[str, ServerTeam] = {}
        self.channels: dict[str, ServerChannel] = {}
        self.users: dict[str, ServerUser] = {}
        self._ids: dict[str, str] = {}
        """Name of a user → the id; ``""``: nobody has it."""
        self._members: dict[str, list[ServerMember]] = {}

    def look_around(self) -> None:
        """Ask again for everything, and for the teams and channels at once."""
        for cache in (self.users, self._ids, self._members, self.channels, self.teams):
            cache.clear()
        for team in self.web.get(list[ServerTeam], "/users/me/teams"):
            self.teams[team.id] = team
            channels = self.web.get(
                list[ServerChannel], f"/users/me/teams/{team.id}/channels"
            )
            self.channels.update((each.id, each) for each in channels)

    def forget_channel(self, id: str) -> None:
        """A channel or its members have changed."""
        self.channels.pop(id, None)
        self._members.pop(id, None)

    def forget_people(self) -> None:
        """Somebody has changed their names."""
        self.users.clear()
        self._ids.clear()

    def channel(self, id: str) -> ServerChannel | None:
        """A channel; None: the account does not see it, or it is in a team
        without the account."""
        if id not in self.channels:
            channel = self._get(ServerChannel, f"/channels/{id}")
            if channel is None:
                return None
            if channel.team_id and channel.team_id not in self.teams:
                return None
            self.channels[id] = channel
        return self.channels[id]

    def members(self, channel: str) -> list[ServerMember]:
        """The members of a channel. Their users are known then."""
        if channel not in self._members:
            members: list[ServerMember] = []
            for number in count():
                query = f"page={number}&per_page={_PER_PAGE}"
                page = self.web.get(
                    list[ServerMember], f"/channels/{channel}/members?{query}"
                )
                members += page
                if len(page) < _PER_PAGE:
                    break
            self._members[channel] = members
        self.meet(member.user_id for member in self._members[channel])
        return self._members[channel]

    def meet(self, ids: Iterable[str]) -> None:
        """Ask for users who are not known."""
        new = [id for id in dict.fromkeys(ids) if id not in self.users]
        for start in range(0, len(new), _PER_PAGE):
            page = new[start : start + _PER_PAGE]
            self._learn(self.web.post(list[ServerUser], "/users/ids", page))

    def named(self, names: Collection[str]) -> list[ServerUser]:
        """The users who have these names, as far as there are any."""
        if len(self._ids) > _MOST_NAMES:
            self._ids.clear()
        new = [name for name in names if name not in self._ids]
        for start in range(0, len(new), _PER_PAGE):
            page = new[start : start + _PER_PAGE]
            self._ids.update(dict.fromkeys(page, ""))
            self._learn(self.web.post(list[ServerUser], "/users/usernames", page))
        ids = [self._ids[name] for name in names]
        return [self.users[id] for id in ids if id]

    def _learn(self, users: list[ServerUser]) -> None:
        for user in users:
            self.users[user.id] = user
            self._ids[user.username] = user.id

    def posts(self, channel: str, since: int) -> dict[str, ServerPost]:
        """The posts of a channel that have changed since a time, and those to
        which they reply."""
        path = f"/channels/{channel}/posts"
        answer = self._get(PostList, f"{path}?since={since}")
        if answer is None:
            return {}
        posts = answer.posts
        if len(answer.order) < _MOST_SINCE:
            return posts

        # There may be more: the pages have all posts, the newest first.
        for number in count():
            page = self.web.get(PostList, f"{path}?page={number}&per_page={_PER_PAGE}")
            posts |= page.posts
            times = [page.posts[id].create_at for id in page.order if id in page.posts]
            if len(times) < _PER_PAGE or min(times) <= since:
                break
        return posts

    def post(self, id: str) -> ServerPost | None:
        """A post; None: it is gone."""
        return self._get(ServerPost, f"/posts/{id}")

    def _get(self, kind: type[T], path: str) -> T | None:
        """An answer; None: there is no such thing, or the account does not see
        it."""
        try:
            return self.web.get(kind, path)
        except LiveError as error:
            if error.status in _GONE:
                return None
            raise

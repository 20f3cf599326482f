"""Asks a running server of Mattermost by its REST API, version 4.

The server defines the fields in ``model/post.go``, ``model/user.go``,
``model/channel.go`` and ``model/file_info.go``.
"""

from collections.abc import Collection, Iterable, Iterator
from itertools import count
from typing import Any, Final, TypeVar

from msgspec import Struct, field

from . import mattermost
from .live import LiveError, Server

T = TypeVar("T")
_MOST_SINCE: Final = 1000
"""The most posts in an answer to ``since``. If an answer has as many, some may
be missing."""
_PER_PAGE: Final = 200
_GONE: Final = (403, 404)
_MOST_NAMES: Final = 100_000
"""The most names in the cache. It has names of nobody, too, because any text
may have some."""


class ServerTeam(mattermost.Team, kw_only=True):
    """A team in the form of an export, with its id."""

    id: str


class ServerChannel(Struct):
    """A channel. ``type``: ``O`` (public), ``P`` (private), ``D`` (direct) or
    ``G`` (direct, of several people)."""

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
    """An emoji of the server's own, in a post or a reaction to it."""

    id: str
    name: str


class Metadata(Struct):
    """Further facts that come with a post."""

    reactions: list[ServerReaction] | None = None
    files: list[FileInfo] | None = None
    emojis: list[ServerEmoji] | None = None


class ServerPost(Struct):
    """A post, which is a message or a notice of the server.

    The server keeps the older texts of an edited post as deleted posts, whose
    ``original_id`` is the edited post. ``message_source`` is the text, if the
    server has changed the addresses of pictures in ``message``.
    """

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
    """An answer with posts.

    ``order`` has the ids of the posts that were asked for, newest first.
    ``posts`` also has the posts to which these reply.
    """

    order: list[str]
    posts: dict[str, ServerPost]


class MattermostServer:
    """A server of Mattermost as one account sees it, by its REST API.

    It caches people, channels and members until it learns that they have
    changed. Methods raise LiveError.
    """

    def __init__(self, address: str, token: str) -> None:
        """Prepare the requests. Nothing is sent yet."""
        self.web = Server(f"{address}/api/v4", {"Authorization": f"Bearer {token}"})
        self.teams: dict[str, ServerTeam] = {}
        self.channels: dict[str, ServerChannel] = {}
        self.users: dict[str, ServerUser] = {}
        self._ids: dict[str, str] = {}
        """Name of a user → the id; ``""`` if nobody has the name."""
        self._members: dict[str, list[ServerMember]] = {}
        """Id of a channel → its members."""

    def read_teams_and_channels(self) -> None:
        """Forget everything, and read the teams and channels of the account.

        Users and members are read when they are needed.
        """
        for cache in (self.users, self._ids, self._members, self.channels, self.teams):
            cache.clear()
        for team in self.web.get(list[ServerTeam], "/users/me/teams"):
            self.teams[team.id] = team
            channels = self.web.get(
                list[ServerChannel], f"/users/me/teams/{team.id}/channels"
            )
            self.channels.update((each.id, each) for each in channels)

    def forget_channel(self, id: str) -> None:
        """Forget a channel, because the channel or its members have changed."""
        self.channels.pop(id, None)
        self._members.pop(id, None)

    def forget_people(self) -> None:
        """Forget all people, because somebody has changed their names."""
        self.users.clear()
        self._ids.clear()

    def channel(self, id: str) -> ServerChannel | None:
        """Return a channel, from the cache or from the server.

        None if the account does not see the channel, or is not in its team.
        """
        if id not in self.channels:
            channel = self._get(ServerChannel, f"/channels/{id}")
            if channel is None:
                return None
            if channel.team_id and channel.team_id not in self.teams:
                return None
            self.channels[id] = channel
        return self.channels[id]

    def members(self, channel: str) -> list[ServerMember]:
        """Return the members of a channel. Afterwards their users are known."""
        if channel not in self._members:
            self._members[channel] = self._read_members(channel)
        self.read_users(member.user_id for member in self._members[channel])
        return self._members[channel]

    def _read_members(self, channel: str) -> list[ServerMember]:
        """Read the members of a channel, page by page."""
        members: list[ServerMember] = []
        for number in count():
            query = f"page={number}&per_page={_PER_PAGE}"
            page = self.web.get(
                list[ServerMember], f"/channels/{channel}/members?{query}"
            )
            members += page
            if len(page) < _PER_PAGE:
                break
        return members

    def read_users(self, ids: Iterable[str]) -> None:
        """Read the users with these ids who are not known yet."""
        new = [id for id in dict.fromkeys(ids) if id not in self.users]
        for start in range(0, len(new), _PER_PAGE):
            page = new[start : start + _PER_PAGE]
            self._learn(self.web.post(list[ServerUser], "/users/ids", page))

    def users_named(self, names: Collection[str]) -> list[ServerUser]:
        """Return the users who have these names, which are in lower case.

        A name that nobody has is left out.
        """
        if len(self._ids) > _MOST_NAMES:
            self._ids.clear()
        self._read_names([name for name in names if name not in self._ids])
        ids = [self._ids[name] for name in names]
        return [self.users[id] for id in ids if id]

    def _read_names(self, names: list[str]) -> None:
        """Read the users who have these names.

        Names that nobody has are remembered, so that they are asked for once.
        """
        for start in range(0, len(names), _PER_PAGE):
            page = names[start : start + _PER_PAGE]
            self._ids.update(dict.fromkeys(page, ""))
            self._learn(self.web.post(list[ServerUser], "/users/usernames", page))

    def _learn(self, users: list[ServerUser]) -> None:
        """Remember users by their ids and by their names."""
        for user in users:
            self.users[user.id] = user
            self._ids[user.username] = user.id

    def posts(self, channel: str, since: int) -> dict[str, ServerPost]:
        """Return the posts of a channel that have changed since a time, by
        their ids.

        The posts to which they reply come, too. ``since``: Unix milliseconds.
        """
        path = f"/channels/{channel}/posts"
        answer = self._get(PostList, f"{path}?since={since}")
        if answer is None:
            return {}
        posts = answer.posts
        if len(answer.order) < _MOST_SINCE:
            return posts

        # There may be more, and the pages have all posts.
        for page in self._pages(path, since):
            posts |= page.posts
        return posts

    def _pages(self, path: str, since: int) -> Iterator[PostList]:
        """Yield the pages of a channel with posts since a time, the newest
        first."""
        for number in count():
            page = self.web.get(PostList, f"{path}?page={number}&per_page={_PER_PAGE}")
            yield page
            times = [page.posts[id].create_at for id in page.order if id in page.posts]
            if len(times) < _PER_PAGE or min(times) <= since:
                return

    def post(self, id: str) -> ServerPost | None:
        """Return a post. None if it was deleted, or if the account does not see
        it."""
        return self._get(ServerPost, f"/posts/{id}")

    def _get(self, kind: type[T], path: str) -> T | None:
        """Return an answer of the REST API.

        None if the thing does not exist, or if the account does not see it.
        """
        try:
            return self.web.get(kind, path)
        except LiveError as error:
            if error.status in _GONE:
                return None
            raise

"""Writes the changes on a running server of Mattermost as lines of its bulk
export.

The module :mod:`imserver_arrivals.mattermost` reads them. Exports do not have
three fields of a post: ``deleted_at``, ``ended_reactions`` and ``ended_at``.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from imserver.plugin.wire import Limit

from .live import MARK, LiveError
from .mattermost_server import (
    MattermostServer,
    ServerChannel,
    ServerPost,
    ServerReaction,
)
from .text import SECOND_MS
from .writing import file_name

FILE_BYTES: Final = 256 << 20
"""Limit of one file in bytes. A larger one is imported with its name only."""
ARCHIVE_BYTES: Final = 256 << 20
"""The size of an archive, in bytes, after which no other channel is begun."""
ID: Final = re.compile(r"[a-z0-9]{26}")
"""The form of an id of Mattermost."""
_NAME: Final = re.compile(r"(?<![\w@./])@([A-Za-z0-9._-]{1,64})")
_CHANNEL: Final = re.compile(r"(?<![\w~])~([a-z0-9_-]{1,64})")
_GONE: Final = (403, 404, 413)
"""Statuses of files that this account is refused every time."""
_encode: Final = msgspec.json.Encoder().encode
Memberships = dict[str, dict[str, list[dict[str, str]]]]
"""Id of a user → team → the channels of the user."""


class MattermostNews:
    """Writes the changes on a server as one archive, in the form of its
    exports.

    ``marks`` gets the ids of messages of our app that are there. ``done`` gets
    the items that were written, so that a later archive leaves them out. It has
    the time of the last change by the id of a post, and 0 by the address of a
    file.
    """

    def __init__(
        self,
        server: MattermostServer,
        folder: Path,
        marks: dict[int, None],
        done: dict[str, int],
    ) -> None:
        """Prepare an archive in an empty folder."""
        self._server = server
        self._folder = folder
        self._marks = marks
        self._done = done
        self._channels: dict[str, ServerChannel] = {}
        """The channels that the archive names."""
        self._people: dict[str, None] = {}
        """Ids of the users that the archive names, in addition to members."""
        self._emoji: dict[str, str] = {}
        """Name of an emoji of the server's own → its file in the archive."""
        self._until = 0
        """The time of the last change; 0 if nothing has changed."""
        self._bytes = 0
        """The size of all files of posts in the archive."""
        self.postponed: dict[str, bool] = {}
        """The channels that are left for the next archive, because this one is
        large: id → whether the members may have changed."""

    def run(
        self,
        due: Mapping[str, bool],
        reactions: list[tuple[str, ServerReaction]],
        since: int,
    ) -> int:
        """Write the changes, if there are any.

        Returns the time of the last change; 0 if nothing has changed. ``due``:
        id of a channel with events → whether its members may have changed.
        ``reactions``: the type of an event, and its reaction. ``since``: the
        time of the earliest changes that are new.
        """
        path = self._folder / "import.jsonl"
        reacted = self._reacted_posts(reactions)
        ended = [reaction for kind, reaction in reactions if kind == "reaction_removed"]
        with path.open("wb") as file:
            _put(file, "version", 1)
            for id in dict.fromkeys((*reacted, *due)):
                # Only an event tells of an ended reaction, so a channel with
                # one is not postponed.
                if self._bytes + file.tell() > ARCHIVE_BYTES and id not in reacted:
                    self.postponed[id] = due[id]
                    continue
                channel = self._server.channel(id)
                if channel is not None:
                    if due.get(id):
                        self._add_channel(channel)
                    self._put_news(file, channel, reacted.get(id, {}), ended, since)
            if self._channels:
                self._put_people_and_channels(file)
        if not self._channels:
            path.unlink()
        return self._until

    def _put_news(
        self,
        file: IO[bytes],
        channel: ServerChannel,
        reacted: dict[str, ServerPost],
        ended: list[ServerReaction],
        since: int,
    ) -> None:
        """Write the changed posts of a channel, and those with new reactions.

        ``reacted``: the posts with new reactions, by their ids. ``ended``: the
        reactions that were taken back.
        """
        posts = self._server.posts(channel.id, since) | reacted
        news = [
            post
            for post in posts.values()
            if post.id in reacted or self._note_if_changed(post, since)
        ]
        if news:
            self._add_channel(channel)
        for thread in self._threads(news, posts):
            self._put_thread(file, channel, thread, ended)

    def _reacted_posts(
        self, reactions: list[tuple[str, ServerReaction]]
    ) -> dict[str, dict[str, ServerPost]]:
        """Read the posts to which reactions were given, or from which they were
        taken.

        Their last change may be old. Returns them by the ids of channel and
        post.
        """
        posts: dict[str, dict[str, ServerPost]] = {}
        for id in {reaction.post_id for _, reaction in reactions}:
            post = self._server.post(id)
            if post is not None:
                posts.setdefault(post.channel_id, {})[post.id] = post
        return posts

    def _note_if_changed(self, post: ServerPost, since: int) -> bool:
        """Whether a post has changed since it was written last.

        The post counts as written afterwards. Two kinds of posts are never
        news: messages of our app, whose marks are collected, and older texts of
        edited posts.
        """
        mark = (post.props or {}).get(MARK)
        is_ours = type(mark) is int
        if type(mark) is int:
            self._marks[mark] = None
        is_known = post.update_at <= since or self._done.get(post.id) == post.update_at
        if is_known or post.original_id or is_ours:
            return False
        self._done[post.id] = post.update_at
        self._until = max(self._until, post.update_at)
        return True

    # --- posts ----------------------------------------------------------------

    def _threads(
        self, news: list[ServerPost], posts: dict[str, ServerPost]
    ) -> Iterator[list[ServerPost]]:
        """Yield posts as lists, one for each thread.

        A list begins with the first post of its thread, which may be old.
        ``news``: the posts to write. ``posts``: all posts at hand, by their
        ids.
        """
        threads: dict[str, list[ServerPost]] = {}
        for post in sorted(news, key=lambda post: post.id):
            replies = threads.setdefault(post.root_id or post.id, [])
            if post.root_id:
                replies.append(post)
        # An export has its threads in the order of their ids, too.
        for id, replies in sorted(threads.items()):
            root = posts.get(id) or self._server.post(id)
            if root is not None:
                yield [root, *sorted(replies, key=lambda post: post.create_at)]

    def _put_thread(
        self,
        file: IO[bytes],
        channel: ServerChannel,
        thread: list[ServerPost],
        ended: list[ServerReaction],
    ) -> None:
        """Write a post with its replies as one line.

        ``{"type": "post", "post": {"team": "t", "channel": "c", "user": "ann",
        "message": "Hi", …, "replies": […]}}`` is such a line. ``ended``: the
        reactions that were taken back.
        """
        self._read_people(channel, thread, ended)
        rows = [self._post_row(post, ended) for post in thread]
        if channel.team_id:
            kind = "post"
            where: dict[str, Any] = {
                "team": self._server.teams[channel.team_id].name,
                "channel": channel.name,
            }
        else:
            # A direct channel has no name, so its members stand for it.
            kind = "direct_post"
            where = {"channel_members": self._member_names(channel)}
        _put(file, kind, where | rows[0] | {"replies": rows[1:]})

    def _read_people(
        self,
        channel: ServerChannel,
        thread: list[ServerPost],
        ended: list[ServerReaction],
    ) -> None:
        """Read all users whom posts and their texts name.

        The archive will name them. It also names the channels to which texts
        link, such as ``~town-square``.
        """
        ids = dict.fromkeys(post.user_id for post in thread)
        for post in thread:
            for reaction in (*(post.metadata.reactions or ()), *ended):
                ids[reaction.user_id] = None
        text = "\n".join(post.message for post in thread)
        self._server.read_users(ids)
        mentioned = [user.id for user in self._server.users_named(_names_in(text))]
        self._people |= ids | dict.fromkeys(mentioned)
        if channel.team_id:
            self._add_named_channels(channel.team_id, set(_CHANNEL.findall(text)))

    def _add_named_channels(self, team: str, names: set[str]) -> None:
        """Let the archive name the channels of a team with these names.

        Texts link to them. A name that no channel has is ignored.
        """
        for channel in list(self._server.channels.values()):
            if channel.name in names and channel.team_id == team:
                self._add_channel(channel)

    def _post_row(
        self, post: ServerPost, ended: list[ServerReaction]
    ) -> dict[str, Any]:
        """Return a post or a reply in the form of an export.

        The files and emoji that it needs are fetched. ``ended``: the reactions
        that were taken back.
        """
        reactions = self._reactions(post.metadata.reactions or ())
        self._fetch_emoji(post)
        return {
            "user": self._username(post.user_id),
            "type": post.type,
            "message": post.message_source or post.message,
            "props": post.props or {},
            "create_at": post.create_at,
            "edit_at": post.edit_at,
            "is_pinned": post.is_pinned,
            "reactions": reactions,
            "attachments": [{"path": path} for path in self._files(post)],
            **self._fields_of_removals(post, reactions, ended),
        }

    def _fetch_emoji(self, post: ServerPost) -> None:
        """Fetch the pictures of the server's own emoji in a post."""
        for emoji in post.metadata.emojis or ():
            path = f"emoji/{emoji.id}"
            if ID.fullmatch(emoji.id) and self._fetch(f"/{path}/image", path):
                self._emoji[emoji.name] = path

    def _fields_of_removals(
        self,
        post: ServerPost,
        reactions: list[dict[str, str]],
        ended: list[ServerReaction],
    ) -> dict[str, Any]:
        """Return the fields of a post that tell what was deleted, if anything
        was.

        Exports do not have these fields. ``reactions``: the reactions that the
        post has now. ``ended``: reactions to any post that were taken back.
        """
        fields = dict[str, Any]()
        if post.delete_at:
            fields["deleted_at"] = post.delete_at
        gone = self._reactions(row for row in ended if row.post_id == post.id)
        if gone:
            # A reaction may have been given again.
            fields["ended_reactions"] = [row for row in gone if row not in reactions]
            fields["ended_at"] = post.update_at
        return fields

    def _reactions(self, reactions: Iterable[ServerReaction]) -> list[dict[str, str]]:
        """Return reactions in the form of an export, with the names of their
        users."""
        return [
            {"user": self._username(each.user_id), "emoji_name": each.emoji_name}
            for each in reactions
        ]

    def _username(self, id: str) -> str:
        """Return the name of a user; the id if the user is unknown."""
        if id in self._server.users:
            return self._server.users[id].username
        return id

    def _files(self, post: ServerPost) -> Iterator[str]:
        """Fetch the files of a post, and yield their paths in the form of an
        export.

        ``20240120/teams/noteam/channels/…/users/…/…/plan.pdf`` is such a path.
        A file that is too large is not fetched, and its name is imported.
        """
        for info in post.metadata.files or ():
            ids = (post.channel_id, post.user_id, info.id)
            is_time = 0 < info.create_at < Limit.TIME_MS
            if not is_time or not all(map(ID.fullmatch, ids)):
                continue
            # The server takes the day from its own clock, which is taken as
            # UTC here.
            day = datetime.fromtimestamp(info.create_at / SECOND_MS, UTC)
            path = "{:%Y%m%d}/teams/noteam/channels/{}/users/{}/{}/{}".format(
                day, *ids, file_name(info.name)
            )
            if info.size <= FILE_BYTES:
                self._fetch(f"/files/{info.id}", path)
            yield path

    def _fetch(self, source: str, path: str) -> bool:
        """Write a file below ``data/``, once in the life of this process.

        ``source``: its address at the REST API. ``path``: its name in the
        archive. Returns whether it was written now. A file that this account is
        refused is not asked for again. Other errors raise LiveError.
        """
        target = self._folder / "data" / path
        if source in self._done:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with target.open("wb") as file:
                self._server.web.download(source, file, FILE_BYTES)
        except LiveError as error:
            target.unlink()
            if error.status not in _GONE:
                raise
        self._done[source] = 0
        if not target.exists():
            return False
        self._bytes += target.stat().st_size
        return True

    # --- people and channels --------------------------------------------------

    def _add_channel(self, channel: ServerChannel) -> None:
        """Let the archive name a channel."""
        self._channels[channel.id] = channel

    def _member_names(self, channel: ServerChannel) -> list[str]:
        """Return the names of the members of a channel."""
        members = self._server.members(channel.id)
        return [self._username(member.user_id) for member in members]

    def _put_people_and_channels(self, file: IO[bytes]) -> None:
        """Write the lines that posts refer to.

        They are the teams, the channels of the archive with their members, and
        all other people and emoji that its posts name.
        """
        for team in self._server.teams.values():
            _put(file, "team", team)
        memberships: Memberships = {}
        for channel in self._channels.values():
            if channel.team_id:
                self._put_channel(file, channel, memberships)
            else:
                self._put_direct_channel(file, channel)
        for id in self._people | dict.fromkeys(memberships):
            if id in self._server.users:
                self._put_user(file, id, memberships.get(id, {}))
        for name, image in self._emoji.items():
            _put(file, "emoji", {"name": name, "image": image})

    def _put_channel(
        self, file: IO[bytes], channel: ServerChannel, memberships: Memberships
    ) -> None:
        """Write a channel of a team. ``memberships`` gets its members."""
        team = self._server.teams[channel.team_id].name
        row = msgspec.to_builtins(channel)
        row |= {"team": team, "deleted_at": channel.delete_at}
        _put(file, "channel", row)
        for member in self._server.members(channel.id):
            channels = memberships.setdefault(member.user_id, {}).setdefault(team, [])
            channels.append({"name": channel.name, "roles": member.roles})

    def _put_direct_channel(self, file: IO[bytes], channel: ServerChannel) -> None:
        """Write a channel without a team, with its members."""
        members = self._server.members(channel.id)
        self._people |= {member.user_id: None for member in members}
        people = [{"username": name} for name in self._member_names(channel)]
        row = {"participants": people, "header": channel.header}
        _put(file, "direct_channel", row)

    def _put_user(
        self, file: IO[bytes], id: str, memberships: dict[str, list[dict[str, str]]]
    ) -> None:
        """Write a user or a bot. ``memberships``: team → the channels of the
        user there.

        A channel is ``{"name": "town-square", "roles": "channel_user"}``.
        """
        user = self._server.users[id]
        kind = "user"
        if user.is_bot:
            kind = "bot"
        teams = [
            {"name": name, "channels": channels}
            for name, channels in memberships.items()
        ]
        _put(file, kind, msgspec.to_builtins(user) | {"teams": teams})


def _names_in(text: str) -> set[str]:
    """Return the names of users that a text mentions, in lower case.

    A name may end with a dot, for example, but at the end of a sentence
    ``@ann.`` is Ann. Therefore these signs are left out.
    """
    names = {name.lower().rstrip("._-") for name in _NAME.findall(text)}
    return names - {"", "all", "channel", "here"}


def _put(file: IO[bytes], kind: str, row: Any) -> None:
    """Write one line, such as ``{"type":"team","team":{…}}``."""
    file.write(_encode({"type": kind, kind: row}) + b"\n")

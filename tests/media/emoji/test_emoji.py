"""Own emoji of apps, on a node with files, and their rows on each kind of
database."""

from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imserver.media.emoji import FEATURE
from imserver.media.emoji.declared import MOST, MOST_BYTES
from imserver.media.emoji.emoji import OWNER, OwnEmoji
from imserver.media.uploads.declared import UploadSettings
from imserver.media.uploads.uploads import Uploads
from imserver.plugin.storage import Store
from imserver.plugin.testing import check_tables
from tests.security.node_harness import ADMIN, Harness, config
from tests.stores import OpenStore
from tests.users import User

APP = "201"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    harness = Harness(
        config(tmp_path_factory.mktemp("emoji"), features=("uploads", "emoji"))
    )
    yield harness
    harness.close()


@pytest.fixture
def key(node: Harness) -> Iterator[User]:
    """A back end. The app has no emoji, before and after."""
    back_end = User(node, ADMIN.key, app=APP)
    yield back_end
    for each in listed(back_end):
        back_end.post("emoji/remove", name=each["name"])


def picture(kind: str = "PNG", size: int = 8, frames: int = 1) -> str:
    """A picture in base64."""
    file = BytesIO()
    first, *others = [
        Image.new("RGB", (size, size), (40 * n, 9, 9)) for n in range(frames)
    ]
    first.save(
        file, kind, **({"save_all": True, "append_images": others} if others else {})
    )
    return b64encode(file.getvalue()).decode()


def listed(user: User, version: str = "") -> Any:
    """The emoji, if they are not those of the version."""
    return user.get("emoji", version=version).get("emoji")


def test_an_emoji_is_listed_until_it_is_removed_and_the_list_is_sent_when_it_has_changed(
    node: Harness, key: User
) -> None:
    ann = User(node, node.session(APP, "ann"), "ann", APP)
    assert listed(ann) == []
    added = key.post(
        "emoji/add", name="party_parrot-1", picture=picture("GIF", frames=3)
    )
    assert listed(ann) == [added]
    content = node.web.get(added["url"])
    assert content.headers["Content-Type"] == "image/gif"
    with Image.open(BytesIO(content.data)) as image:
        assert (image.size, image.n_frames) == ((8, 8), 3), "it still moves"  # type: ignore[attr-defined]
    version = ann.get("emoji")["version"]
    assert listed(ann, version) is None
    assert key.refused("emoji/add", name="party_parrot-1", picture=picture()) == (
        409,
        "emoji_exists",
    )
    key.post("emoji/remove", name="party_parrot-1")
    assert listed(ann, version) == []
    assert node.web.get(added["url"]).status_code == 404
    assert key.refused("emoji/remove", name="party_parrot-1") == (404, "unknown_emoji")
    assert (
        key.post("emoji/add", name="party_parrot-1", picture=picture())["url"]
        != added["url"]
    )


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("tea", picture("BMP"), (415, "kind_refused")),
        ("tea", b64encode(b"<svg/>").decode(), (415, "kind_refused")),
        ("tea", picture(size=513), (413, "file_too_large")),
        ("tea", b64encode(bytes(MOST_BYTES + 1)).decode(), (400, "invalid_request")),
        ("tea", "no base64", (400, "invalid_request")),
        *(
            (name, picture(), (400, "invalid_request"))
            for name in ("t", "Tea", "-tea", "t a", "t" * 31)
        ),
    ],
)
def test_what_is_refused_leaves_no_file(
    node: Harness, key: User, name: str, content: str, problem: tuple[int, str]
) -> None:
    assert key.refused("emoji/add", name=name, picture=content) == problem
    assert listed(key) == []
    assert node.node.core.service(Uploads).usage(APP, OWNER).files == 0


def test_emoji_of_other_messengers_may_be_large_and_without_transparency(
    node: Harness, key: User
) -> None:
    added = key.post("emoji/add", name="from-slack", picture=picture("JPEG", size=272))
    assert listed(key) == [added]


def test_an_app_has_so_many_and_one_more_leaves_no_file(
    node: Harness, key: User
) -> None:
    own = node.node.core.service(OwnEmoji)
    key.post("emoji/add", name="first", picture=picture())
    fill(node.node.core.store, APP, "ann", MOST - 1)
    assert key.refused("emoji/add", name="last", picture=picture()) == (
        409,
        "too_many_emoji",
    )
    assert node.node.core.service(Uploads).usage(APP, OWNER).files == 1
    assert len(own.of(APP)) == MOST


def test_only_a_back_end_sees_who_has_added_one_and_it_outlasts_them(
    node: Harness, key: User
) -> None:
    own = node.node.core.service(OwnEmoji)
    own.add(APP, "tea", b64decode(picture("WEBP")), "ann")
    assert "user" not in listed(User(node, node.session(APP, "bob"), "bob", APP))[0]
    assert listed(key)[0]["user"] == "ann"
    node.node.core.erase_user(APP, "ann")
    (shown,) = listed(key)
    assert "user" not in shown
    assert node.web.get(shown["url"]).status_code == 200


def fill(store: Store, app: str, user: str, count: int = 1) -> None:
    rows = [
        (app, f"{user}_{number}", "x" * 32, 8, 8, user, 1) for number in range(count)
    ]
    columns = "app, name, picture, width, height, member, created"
    store.write(lambda sql: sql.insert_new("own_emoji", columns, rows))


def test_rows_are_exported_and_erased(url: str) -> None:
    check_tables(FEATURE, fill, url)


def test_each_engine_stores_what_was_added(
    url: str, open_store: OpenStore, tmp_path: Path
) -> None:
    store = open_store(url, threaded=True)
    with closing(
        Uploads(UploadSettings(min_free_bytes=0), str(tmp_path), store)
    ) as uploads:
        own = OwnEmoji(store, uploads)
        rows = [
            own.add(APP, name, b64decode(picture()), "ann")
            for name in ("tea", "cake_2")
        ]
        assert own.of(APP) == rows[::-1]
        own.remove(APP, "tea")
        assert own.of(APP) == rows[1:]
        statement = "UPDATE own_emoji SET app = 'shop' WHERE app = %s"
        store.execute(statement, (APP,))
        own.remove("shop", "cake_2")
        assert uploads.find(rows[1].picture), "it is a file of another app"

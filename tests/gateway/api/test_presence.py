"""Who is online: lists, pages of lists, single users and many."""

from typing import Any

import pytest

from imserver.gateway.dialects.cmd.api import LIST_PAGE
from tests.gateway.api.fakes import BAD_PARAMETER, FORM, LIMITED, OK, FakeNode, decoded

LIST = "/user/list"
ONLINE = "/user/online"
MANY = "/user/onlineBatch"


@pytest.fixture
def node() -> FakeNode:
    return FakeNode(default=["named"])


def test_parameters_of_a_get_come_from_the_query_only(node: FakeNode) -> None:
    for query in ("", "appID=", "appID=0", "appID=999", "appID=x", "appID=104", "userID=1"):
        assert decoded(node.call("GET", LIST, query=query)) == {
            **OK,
            "data": {"userCount": 0, "userList": []},
        }
    assert decoded(node.call("GET", LIST, b"appID=101"))["data"]["userCount"] == 0
    assert decoded(node.call("GET", LIST, b"appID=102", query="appId=101"))["data"]["userCount"] == 2


def test_a_large_app_is_listed_in_pages(node: FakeNode) -> None:
    names = [f"用户{number:06}" for number in range(LIST_PAGE * 5 // 2)]
    node.users["101"] = names[::-1]
    pages: list[Any] = [node.get(LIST, appID=101)["data"]]
    while "next" in pages[-1]:
        pages.append(node.get(LIST, appID=101, cursor=pages[-1]["next"])["data"])
        node.users["101"] = [*reversed(names), "a", "zz"]  # they are on no page: others are, whoever comes
    assert [len(page["userList"]) for page in pages] == [LIST_PAGE, LIST_PAGE, LIST_PAGE // 2]
    assert [name for page in pages for name in page["userList"]] == names
    assert list(pages[0]) == ["userCount", "userList", "next"]
    node.users["101"] = names[:LIST_PAGE]
    assert list(node.get(LIST, appID=101)["data"]) == ["userCount", "userList"], "just one page"


@pytest.mark.parametrize(
    ("app", "user", "online"),
    [
        *(("101", user, online) for user, online in (("马远", True), ("named", False), ("", False))),
        *((app, "马远", False) for app in ("103", "999")),
        *((app, "黄帝", True) for app in ("0", "", "x")),
        *((app, "named", True) for app in ("", "default")),
        ("", "nobody", False),
    ],
)
def test_a_user_is_online_in_an_app_or_without_one_in_any(
    node: FakeNode, app: str, user: str, online: bool
) -> None:
    assert node.get(ONLINE, appID=app, userID=user) == {**OK, "data": {"online": online, "userID": user}}


def test_many_users_are_looked_up_at_once(node: FakeNode) -> None:
    expected = {
        **OK,
        "data": {
            "onlineCount": 1,
            "userList": [{"online": True, "userID": "马远"}, {"online": False, "userID": "x"}],
        },
    }
    assert node.post_json(MANY, {"appID": 102, "userIDs": ["马远", "x"]}) == expected
    assert node.post_json(MANY, {"appId": "102", "userids": ["马远", "x"]}) == expected
    assert node.post(MANY, appID=102, userIDs=["马远", "x"]) == expected
    assert (
        decoded(node.call("POST", MANY, b"appID=102&userIds=%E9%A9%AC%E8%BF%9C&userIDs=x", kind=FORM))
        == expected
    )
    assert node.post_json(MANY, {"userIDs": ["马远", "x"]}) == expected
    assert node.post(MANY, appID=101) == {**OK, "data": {"onlineCount": 0, "userList": []}}
    assert node.post_json(MANY, {"userIDs": ["named", "马远", "x"]})["data"]["onlineCount"] == 2


@pytest.mark.parametrize("users", ["马远", 5, ["马远", 5], {"a": 1}, ["a"] * 4])
def test_many_users_of_a_wrong_type_or_number_are_refused_with_1001(users: object) -> None:
    assert FakeNode(LIMITED).post_json(MANY, {"appID": 101, "userIDs": users}) == BAD_PARAMETER

"""GoChat's routes: accounts, friends and groups over HTTP, for its unchanged
clients.

Every answer has HTTP status 200 and ``{"code","msg"}``. The code is 200, or -1
for an error. Some answers have ``data``. Requests have form fields; ids are
texts of digits.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.messenger.groups.groups import Groups
from imserver.people.accounts import friends
from imserver.people.accounts.accounts import Accounts
from imserver.people.accounts.friends import FriendResult, Friends
from imserver.plugin.errors import HttpProblem, ServiceRefused, Unavailable
from imserver.plugin.http import PROBLEM, Call, HttpRequest, HttpResponse, Route
from imserver.plugin.identity import GOCHAT, Needs, Relations, Tenants
from imserver.plugin.messages import clean_name
from imserver.plugin.wire import id_of


class GoChatApi(Struct, frozen=True):
    """The services that GoChat's routes use."""

    tenants: Tenants
    accounts: Accounts
    friends: Friends
    groups: Groups
    relations: Relations


def refusal(text: str) -> HttpResponse:
    """An answer with code -1 and the reason."""
    body = b'{"code":-1,"msg":%b}' % msgspec.json.encode(text)
    return HttpResponse(200, body, refuses=True)


def success(text: str, data: Any = None) -> HttpResponse:
    """An answer with code 200, and ``data`` unless it is None."""
    if data is None:
        content = b""
    else:
        content = b',"data":%b' % msgspec.json.encode(data)
    return HttpResponse(
        200, b'{"code":200,"msg":%b%b}' % (msgspec.json.encode(text), content)
    )


BAD_PARAMETER: Final = refusal("参数不正确")
NO_TOKEN: Final = refusal("用户认证未通过")
_NO_FRIEND: Final = refusal("好友不存在")
_TOO_MANY_MEMBERS: Final = refusal("系统错误:群成员数量已达上限")
_CLOSED: Final = refusal("系统错误:注册已关闭")
_WRONG_LOGIN: Final = refusal("手机号或密码错误")
_LOCKED: Final = refusal("账号已被锁定")
_NEEDS_CODE: Final = refusal("该账号已启用两步验证,请提供正确的验证码")
_TOO_MANY_FAILURES: Final = refusal("系统错误:尝试次数过多,请稍后再试")
_BUSY: Final = refusal("系统错误:服务器繁忙,请稍后再试")
_NOT_ADMITTED: Final = (401, 403)
"""Statuses of requests whose token is missing or not sufficient."""
_MAX_UINT64: Final = 2**64 - 1
_MOST_DIGITS: Final = 40
"""The most digits that a number may have."""
_REFUSALS: Final = {
    "invalid_request": BAD_PARAMETER,
    "login_taken": refusal("账号已被注册"),
    "registration_closed": _CLOSED,
    "wrong_login": _WRONG_LOGIN,
    "account_locked": _LOCKED,
    "banned": _LOCKED,
    "second_factor_required": _NEEDS_CODE,
    "wrong_code": _NEEDS_CODE,
    "too_many_requests": _TOO_MANY_FAILURES,
    "busy": _BUSY,
    "unknown_account": _NO_FRIEND,
    "too_many_friends": refusal("系统错误:好友数量已达上限"),
    "too_many_members": _TOO_MANY_MEMBERS,
    "unknown_group": refusal("用户不属于该群"),
}
"""Code of a problem → the answer."""

Handler = Callable[["GoChatApi", Call], HttpResponse]


def _refuses(**others: HttpResponse) -> Callable[[Handler], Handler]:
    """A decorator: let a route answer refusals of its services in GoChat's
    form.

    ``others``: the answers of this route alone, by the code of the problem. All
    other refusals have the answers of :data:`_REFUSALS`. A refusal that is in
    neither is raised.
    """
    answers = {**_REFUSALS, **others}

    def wrap(function: Handler) -> Handler:
        def run(api: GoChatApi, call: Call) -> HttpResponse:
            """Run the route, and answer a refusal."""
            try:
                return function(api, call)
            except ServiceRefused as refused:
                answer = answers.get(refused.problem.code)
                if answer is None or isinstance(refused, Unavailable):
                    raise
                return answer

        return run

    return wrap


def _refuse(
    problem: HttpProblem, _request: HttpRequest, _detail: str = ""
) -> HttpResponse:
    """Answer a refused request with code -1 in the body.

    Only a wrong method (405) keeps its status. Details of internal errors are
    not sent.
    """
    if problem.status == 405:
        return HttpResponse(405, b"")
    if problem.status == 429:
        return _TOO_MANY_FAILURES
    if problem.status < 500:
        if problem.status in _NOT_ADMITTED:
            return NO_TOKEN
        return BAD_PARAMETER
    if problem.temporary and problem.status == 503:
        return _BUSY
    return refusal("系统错误:服务器内部错误")


# --- accounts -----------------------------------------------------------------


# A wrong login here means that the account was deleted at the same time.
@_refuses(not_allowed=_CLOSED, passwords_off=_CLOSED, wrong_login=_BUSY)
def register(api: GoChatApi, call: Call) -> HttpResponse:
    """``POST /register``: make an account and log it in. May switch
    greenlets."""
    phone = call.params.get("phone_number", "")
    password = call.params.get("password", "")
    if not (phone and password):
        return BAD_PARAMETER
    accounts = api.accounts
    nickname = clean_name(call.params.get("nickname", ""))
    host = call.request.host
    # The phone number is the identifier with which the user logs in later.
    account = accounts.register(
        call.app, {"phone": phone}, password, nickname, address=host
    )
    session = accounts.token(account)
    call.user = account.user
    return success("登录成功", {"token": session.token, "id": account.user})


@_refuses(not_allowed=_WRONG_LOGIN, passwords_off=_WRONG_LOGIN)
def login(api: GoChatApi, call: Call) -> HttpResponse:
    """``POST /login``: make a token for a phone number and password.

    An account with a second factor also needs ``code``. May switch greenlets.
    """
    phone = call.params.get("phone_number", "")
    password = call.params.get("password", "")
    if not (phone and password):
        return BAD_PARAMETER
    accounts = api.accounts
    earlier_token = call.request.headers.get("token", "")
    # Only accounts with a second factor need it.
    code = call.params.get("code", "")
    account = accounts.login(
        call.app, phone, password, call.request.host, earlier_token, code
    )
    session = accounts.token(account)
    call.user = account.user
    return success("登录成功", {"token": session.token, "user_id": account.user})


# --- friends ------------------------------------------------------------------


@_refuses(invalid_request=refusal("不能添加自己为好友"))
def add_friend(api: GoChatApi, call: Call) -> HttpResponse:
    """``POST /friend/add``: add a friend without asking the friend. May switch
    greenlets."""
    app = call.app
    user = call.principal.user
    other = _id(call.params.get("friend_id", ""))
    if not other:
        return BAD_PARAMETER
    result = api.friends.change(app, user, other, friends.add)
    if result is FriendResult.ALREADY:
        return refusal("请勿重复添加")
    # Blocked users must not learn that they are blocked, so the answer is as if
    # there were no such account.
    if result is FriendResult.AWAY:
        return _NO_FRIEND
    return success("好友添加成功")


# --- groups -------------------------------------------------------------------


@_refuses(too_many_requests=refusal("系统错误:群数量已达上限"))
def create_group(api: GoChatApi, call: Call) -> HttpResponse:
    """``POST /group/create``: make a group of the owner and the named users.

    Users are skipped who do not exist, have blocked the owner, or join by an
    invitation only. May switch greenlets.
    """
    app = call.app
    user = call.principal.user
    name = clean_name(call.params.get("name", ""))
    named = call.texts("ids")
    if not (name and named):
        return BAD_PARAMETER
    groups = api.groups
    wanted = dict.fromkeys(map(_id, named))
    if len(wanted) > groups.limit:
        return _TOO_MANY_MEMBERS

    members = _who_may_be_added(api, app, user, list(wanted))
    group, _ = groups.create(app, user, name, members)
    call.user = user
    # For the audit log. Its users are those who were named.
    named_users = list(filter(None, wanted))
    call.facts = {"group": str(group.id), "users": named_users}
    return success("群组创建成功", {"id": str(group.id)})


def _who_may_be_added(
    api: GoChatApi, app: str, user: str, named: list[str]
) -> list[str]:
    """The named users who exist, and whom ``user`` may add to a group. Switches
    greenlets."""
    users = [each.user for each in api.accounts.tokens.those_of(app, named)]
    skipped = {
        *api.relations.blocked_by(app, user, users),
        *api.relations.strangers_among(app, user, users),
    }
    return [each for each in users if each not in skipped]


@_refuses()
def list_group(api: GoChatApi, call: Call) -> HttpResponse:
    """``GET /group_user/list``: list all members of a group, for its members.
    May switch greenlets."""
    app = call.app
    user = call.principal.user
    named = _id(call.params.get("group_id", ""))
    if not named:
        return BAD_PARAMETER
    # One more than a group may have, so all members are on one page.
    members = api.groups.members(app, id_of(named), user, "", api.groups.limit + 1)
    return success("请求成功", {"ids": [each.user for each in members]})


def _id(text: str) -> str:
    """Read a 64-bit number as the id of an account or a group.

    Returns ``""`` if it is no number, is 0, or is too large.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        return ""
    number = int(text)
    if 0 < number <= _MAX_UINT64:
        return str(number)
    return ""


_ROW: Final[dict[str, Any]] = {
    "style": replace(PROBLEM, refuse=_refuse, everywhere=True),
    "app_of": lambda api, _: api.tenants.resolve(GOCHAT),
    "service": lambda core, _: core.service(GoChatApi),
}
_ACCOUNT: Final[dict[str, Any]] = {
    **_ROW,
    "app": "any",
    "limited": True,
    "token_in": "token",
}

ROUTES: Final = (
    Route("POST", "/register", Needs.ANYONE, register, act="accounts.register", **_ROW),
    Route("POST", "/login", Needs.ANYONE, login, act="accounts.login", **_ROW),
    Route("POST", "/friend/add", Needs.ACCOUNT, add_friend, **_ACCOUNT),
    Route(
        "POST",
        "/group/create",
        Needs.ACCOUNT,
        create_group,
        act="groups.create",
        voice=True,
        **_ACCOUNT,
    ),
    Route("GET", "/group_user/list", Needs.ACCOUNT, list_group, **_ACCOUNT),
)

"""Names for newcomers."""

from imserver.pages.names import FIGURES, Names


def nobody(_app: str, _user: str) -> bool:
    return False


def test_every_figure_with_a_number_is_a_valid_user_id() -> None:
    assert len(FIGURES) == len(set(FIGURES)) > 300
    assert all(len(f"{name}9999".encode()) < 20 for name in FIGURES)


def test_a_name_is_not_given_twice_within_half_a_minute() -> None:
    names = Names(lambda: 0.0)
    given = [names.pick("101", nobody) for _ in range(len(FIGURES) // 2)]
    assert len(set(given)) == len(given)


def test_apps_do_not_share_names() -> None:
    names = Names(lambda: 0.0)
    given = {app: {names.pick(app, nobody) for _ in range(200)} for app in ("101", "102")}
    assert given["101"] & given["102"]


def test_who_is_online_keeps_the_name() -> None:
    taken = set(FIGURES) - {"苏轼"}
    names = Names(lambda: 0.0)
    given = {names.pick("101", lambda _app, user: user in taken) for _ in range(50)}
    assert not given & taken


def test_in_a_full_room_a_number_goes_behind_the_name() -> None:
    name = Names(lambda: 0.0).pick("101", lambda _app, user: user in FIGURES)
    assert name.rstrip("0123456789") in FIGURES
    assert name not in FIGURES


def test_what_was_given_is_forgotten_and_bounded() -> None:
    now = [0.0]
    names = Names(lambda: now[0])
    for _ in range(3000):
        names.pick("101", nobody)
    assert len(names._reserved) <= 2000
    now[0] = 31.0
    names.pick("101", nobody)
    assert len(names._reserved) == 1

"""Ids of connections: always the same, read by whoever has the secret, and by nobody else."""

from hypothesis import example, given
from hypothesis import strategies as st

from imserver.gateway.process import Secret
from imserver.gateway.sessions.connection_ids import ID_CHARACTERS, Address, ConnectionIds, new_birth
from tests.support import run_python

SECRET = b"s" * 32
numbers = st.integers(1, (1 << 48) - 1)
OURS = ConnectionIds(Secret(SECRET), 77)
URL_SAFE = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(birth=numbers, number=numbers)
def test_an_id_shows_any_node_with_the_secret_where_its_connection_is(birth: int, number: int) -> None:
    ids = ConnectionIds(Secret(SECRET), birth)
    connection_id = ids.id_of(number)
    assert connection_id == ids.id_of(number)
    assert (len(connection_id), set(connection_id) <= URL_SAFE) == (ID_CHARACTERS, True)
    other, changing = Secret(b"t" * 32), Secret(b"t" * 32, SECRET)
    for reader, found in ((Secret(SECRET), True), (changing, True), (other, False)):
        address = ConnectionIds(reader, 77).read(connection_id)
        assert address == (Address(birth, number) if found else None)
    assert OURS.read(ConnectionIds(changing, birth).id_of(number)) is None, "none is made with the second one"


@given(number=numbers, index=st.integers(0, ID_CHARACTERS - 1), letter=st.sampled_from(sorted(URL_SAFE)))
def test_an_id_that_was_changed_anywhere_is_none(number: int, index: int, letter: str) -> None:
    connection_id = OURS.id_of(number)
    changed = connection_id[:index] + letter + connection_id[index + 1 :]
    assert OURS.read(changed) == (Address(77, number) if changed == connection_id else None)


@given(text=st.text())
@example("A" * ID_CHARACTERS)
@example("=" * 38)
@example("马" * 38)
@example("A" * 37)
@example("\ud800")
def test_other_text_is_no_id(text: str) -> None:
    assert OURS.read(text) is None


def test_ids_of_one_node_show_nothing_in_common() -> None:
    """Neither the node nor the order of connections can be seen: no two characters stay where they are."""
    connection_id = [OURS.id_of(number) for number in range(1, 200)]
    assert all(len({text[index] for text in connection_id}) > 8 for index in range(ID_CHARACTERS - 1))


def test_neither_numbers_nor_births_are_repeated() -> None:
    ids = ConnectionIds(Secret(SECRET), 1)
    assert len({ids.next_number() for _ in range(1000)} - {0}) == 1000
    births = {new_birth() for _ in range(1000)}
    assert len(births) == 1000
    assert all(0 < birth < 1 << 48 for birth in births)


def test_nothing_of_cryptography_is_loaded_before_the_first_id() -> None:
    code = (
        "import sys; from imserver.gateway.process import Secret; "
        "from imserver.gateway.sessions.connection_ids import ConnectionIds; "
        "ids = ConnectionIds(Secret(b's' * 32), 1); before = 'cryptography' in sys.modules; ids.id_of(1); "
        "print(before, 'cryptography' in sys.modules)"
    )
    assert run_python(code) == "False True\n"

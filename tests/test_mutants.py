"""``python -m tools.mutants``: what it changes, and what it leaves as it is."""

from tools.mutants import find_changes

SOURCE = '''
"""A text."""
__all__ = ["f", 1]
class A(Struct, frozen=True):
    limit: int = 5
    def __init__(self) -> None:
        self.users = {}
    def add(self, user: "Literal[1]", *, again: bool = False) -> int:
        if user in self.users and not again:
            raise KeyError(f"{user} is {1}", 2)
        self.users[user] = 1
        log.info("user %d", 3)
        self.tell(user)
        return len(self.users)
'''


def test_each_change_is_of_one_point_and_texts_types_and_logs_stay() -> None:
    changes = list(find_changes("a.py", SOURCE, 1))
    lines = SOURCE.splitlines()
    found = []
    for change in changes:
        after = change.apply(SOURCE).splitlines()
        (number,) = (i for i, line in enumerate(lines) if after[i] != line)
        assert number + 1 in change.lines
        found.append((change.kind, after[number].strip()))
    assert found == [
        ("constant", "limit: int = (10)"),
        (
            "constant",
            'def add(self, user: "Literal[1]", *, again: bool = (True)) -> int:',
        ),
        ("branch", "if (not (user in self.users and (not again))):"),
        ("and, or", "if (user in self.users or not again):"),
        ("comparison", "if (user not in self.users) and not again:"),
        ("comparison", "if user in self.users and (again):"),
        ("refusal dropped", "pass"),
        ("assignment dropped", "pass"),
        ("constant", "self.users[user] = (2)"),
        ("call dropped", "pass"),
        ("return None", "return None"),
    ]

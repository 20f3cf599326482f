"""What refusals mean, in both languages."""

from imserver.operate.admin.page import chinese_meanings
from imserver.operate.refusals.reasons import COMMANDS, LOGINS
from imserver.plugin.errors import Problems


def test_each_reason_has_its_meaning_in_chinese() -> None:
    meanings = {row.meaning for table in (LOGINS, COMMANDS) for row in table.values()}
    assert meanings <= chinese_meanings().keys()
    assert Problems.MUTED.message in chinese_meanings()
    assert all(text.strip() and not text.isascii() for text in chinese_meanings().values())

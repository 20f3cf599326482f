"""What real archives have: every message of them is stored, or named by the
report."""

import re
from pathlib import Path

import pytest
from archives.seen_in_the_wild import SHAPES, Shape
from conftest import Site

LOST = re.compile(
    r"^imserver: ([\d,]+) messages of the archive are not imported$", re.MULTILINE
)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_each_message_of_a_real_shape_is_stored_or_named(
    site: Site, tmp_path: Path, shape: Shape
) -> None:
    (tmp_path / "in").mkdir()
    output = site.run(shape.write(tmp_path / "in"), status=shape.status)
    stored = sum(each.kind == "message" for each in site.entries())
    lost = LOST.search(output)
    named = int(lost[1]) if lost is not None else 0
    assert (stored, named) == (shape.stored, shape.messages - shape.stored), output
    assert shape.says in output

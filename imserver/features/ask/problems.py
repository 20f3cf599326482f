"""HTTP problems of questions."""

from __future__ import annotations

from typing import Final

from imserver.plugin.errors import HttpProblem

HTTP_QUESTION_CLOSED: Final = HttpProblem(
    409, "question_closed", "The question is answered, cancelled or expired."
)
PROBLEMS: Final = (HTTP_QUESTION_CLOSED,)
"""All of them."""

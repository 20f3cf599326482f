"""Answers are taken apart however they are framed and wherever a read ends."""

import pytest

from bench.http_client import split_answer
from bench.loop import BenchError

PLAIN = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"


@pytest.mark.parametrize(("answer", "status"), [(PLAIN, 200), (CHUNKED, 404)])
def test_an_answer_is_whole_only_with_its_last_byte(answer: bytes, status: int) -> None:
    for end in range(len(answer)):
        assert split_answer(answer[:end], 0) is None
    assert split_answer(answer, 0) == (status, b"hello", len(answer))


def test_an_answer_without_an_end_is_an_error() -> None:
    with pytest.raises(BenchError, match="neither a length nor chunks"):
        split_answer(b"HTTP/1.1 200 OK\r\n\r\n", 0)

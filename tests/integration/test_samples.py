"""The wire samples of the dialects on both HTTP servers: these frames in, those frames out."""

import pytest

from tests.samples import play, samples_of

from .setting import Launch


@pytest.mark.both_servers
def test_wire_samples_get_their_answers(launch: Launch, http_server: str) -> None:
    server = launch(http_server, centrifuge={"app": "101"}, websocket={"close_seconds": 1})
    for name in ("action", "centrifuge", "client", "cmd"):
        wrong = play(server, samples_of(name))
        assert not wrong, "\n".join([name, *wrong])

"""What no SDK of Centrifugo sends, and its server API without a library, with their answers."""

from tests.samples import play, samples_of
from tests.support import Server


def test_wire_samples_get_their_answers(server: Server) -> None:
    wrong = play(server, samples_of("centrifugo"))
    assert not wrong, "\n".join(wrong)

"""``imserver-client bot``: bots of a running server, by its API."""

from click.testing import CliRunner

from imserver_client.bot import bot
from tests.conftest import StartServer
from tests.integration.receiver import Receiver
from tests.support import Server

KEY = "the admin key of a test, long enough"


def run(server: Server, *arguments: str, key: str = KEY) -> tuple[int, str, str]:
    url = f"http://{server.http.host}:{server.http.port}"
    command, *rest = arguments
    given = [command, "--url", url, "--app", "gochat", *rest]
    done = CliRunner().invoke(bot, given, env={"IMSERVER_KEY": key})
    return done.exit_code, done.stdout.strip(), done.stderr.strip()


def test_a_bot_is_made_listed_given_a_webhook_and_a_new_token_and_deleted(start_server: StartServer) -> None:
    keys = [{"key": KEY, "scopes": ["admin"]}]
    server = start_server(config={"api": {"keys": keys}, "apps": {"gochat": {}}})
    code, token, output = run(server, "add", "weather", "--nickname", "Sun")
    assert code == 0, output
    id = token.split("_")[1]
    assert output == f"The id of this bot is {id}. Save the token: it is not shown again."
    code, rows, _ = run(server, "list")
    assert rows.splitlines()[0].split() == ["id", "name", "nickname", "owner", "created", "webhook"]
    assert rows.splitlines()[1].split()[:3] == [id, "weather", "Sun"]
    code, secret, _ = run(server, "hook", id, "https://weather.example/hook")
    assert (code, len(secret)) == (0, 43)
    assert "https://weather.example/hook" in run(server, "list")[1]
    assert run(server, "hook", id, "--remove")[:2] == (0, "removed")
    assert "https://" not in run(server, "list")[1]
    code, replaced, _ = run(server, "rotate", id)
    assert (code, replaced != token, replaced.split("_")[1]) == (0, True, id)
    code, _, output = run(server, "list", key=replaced)
    assert (code, output.startswith("bot: not_allowed: ")) == (1, True)
    code, _, output = run(server, "hook", id, "https://10.0.0.1/")
    assert (code, output) == (1, "bot: invalid_request: hook_url: the address is not public")
    assert run(server, "hook", id)[0] == 2, "neither a URL nor --remove"
    assert run(server, "delete", id)[:2] == (0, "deleted")
    code, _, output = run(server, "delete", id)
    assert (code, output) == (1, "bot: unknown_account: There is no such bot of this owner")
    assert run(server, "list", key="wrong")[0] == 1
    refused = CliRunner().invoke(bot, ["list", "--url", "http://127.0.0.1:1", "--app", "gochat"])
    assert (refused.exit_code, refused.stderr.startswith("bot: http://127.0.0.1:1: ")) == (1, True)


def test_an_address_that_is_no_imserver_is_one_clear_line() -> None:
    with Receiver() as other:
        other.reply = lambda _: (200, b"<html>")
        done = CliRunner().invoke(bot, ["rotate", "--url", other.url, "--app", "gochat", "7"])
    assert (done.exit_code, done.stderr.startswith(f"bot: {other.url}: malformed answer: ")) == (1, True)

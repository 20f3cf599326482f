"""Whoever logs in to rooms under names of their choice does not fill the database."""

import contextlib
import sqlite3

import pytest

from imserver.messenger.messages import action_positions
from tests.conftest import StartServer
from tests.integration.action import ActionClient, login_data


@pytest.mark.full
def test_logins_to_rooms_leave_a_bounded_number_of_positions(start_server: StartServer) -> None:
    most = action_positions.ROOMS_PER_USER
    server = start_server(config={"apps": {"action:1": {"store_conversations": True}}})
    with ActionClient(server.ws) as one:
        one.begin()
        assert one.ask_action("login", login_data("1", room="first"))[0] == 200
        database = next((server.folder / "data").glob("*.db"))
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
            connection.executemany(
                "INSERT INTO room_position (app, member, room, id) VALUES ('action:1', '1', ?, 0)",
                [(f"old{number}",) for number in range(most)],
            )
        assert one.ask_action("login", login_data("1", room="last"))[0] == 200
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
        rooms = {row[0] for row in connection.execute("SELECT room FROM room_position")}
    assert len(rooms) == most
    assert "last" in rooms

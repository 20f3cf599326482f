"""What Grafana, Alertmanager, GitLab and slack_sdk send to an incoming webhook of Slack, as messages."""

import json
from pathlib import Path
from typing import Any

import pytest

from imserver.people.bots.incoming import text_of

SAMPLES = json.loads((Path(__file__).parents[2] / "vectors" / "slack-incoming.json").read_text("utf-8"))


@pytest.mark.parametrize("sample", SAMPLES, ids=[each["from"] for each in SAMPLES])
def test_a_message_in_the_form_of_slack_has_its_text(sample: dict[str, Any]) -> None:
    text, mentions_all = text_of(sample["given"])
    assert text.split("\n") == sample["lines"]
    assert mentions_all is sample["mentions_all"]

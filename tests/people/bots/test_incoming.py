"""What Grafana, Alertmanager, GitLab and slack_sdk send to an incoming webhook of Slack, as messages."""

from typing import Any

import pytest

from imserver.people.bots.incoming import text_of

AM = "http://am.example/#/alerts?receiver=team"
GRAFANA: dict[str, Any] = {
    "channel": "#ops",
    "username": "Grafana",
    "attachments": [
        {
            "color": "#D63232",
            "fallback": "[FIRING:1] Disk",
            "title": "Disk is full",
            "title_link": "http://grafana.example/alerting/list",
            "text": "**Firing**\n\nValue: A=1 &lt; 2\n - host = db &amp; web",
            "footer": "Grafana v12",
            "image_url": "http://grafana.example/p.png",
            "ts": 1700000000,
        }
    ],
}
ALERTMANAGER: dict[str, Any] = {
    "channel": "#ops",
    "username": "Alertmanager",
    "attachments": [
        {
            "title": "[FIRING:1] InstanceDown (db)",
            "title_link": AM,
            "pretext": "<!channel> look",
            "text": "",
            "fallback": "[FIRING:1] InstanceDown | " + AM,
            "callback_id": "",
            "fields": [{"title": "severity", "value": "page", "short": True}],
            "footer": "",
            "mrkdwn_in": ["fallback", "pretext", "text"],
        }
    ],
}
GITLAB: dict[str, Any] = {
    "text": "Ann pushed to <https://git.example/a/b/commits/main|main> of <https://git.example/a/b|A / B>",
    "attachments": [
        {"color": "#345", "text": "<https://git.example/c/1a2b|1a2b>: a &lt;b&gt; - Ann", "fallback": "1a2b"},
        {"fallback": "only this"},
    ],
}
SLACK_SDK: dict[str, Any] = {
    "text": "fallback of the blocks",
    "blocks": [
        {"type": "header", "text": {"type": "plain_text", "text": "Deployed"}},
        {"type": "divider"},
        {
            "type": "section",
            "text": {
                "type": "mrkdwn",
                "text": "*web* by <@U123|ann> in <#C1|ops>, <mailto:a@b.example|mail>",
            },
            "fields": [{"type": "mrkdwn", "text": "took"}, {"type": "mrkdwn", "text": "3 s"}],
        },
        {
            "type": "context",
            "elements": [{"type": "mrkdwn", "text": "one"}, {"type": "mrkdwn", "text": "two"}],
        },
        {
            "type": "rich_text",
            "elements": [
                {
                    "type": "rich_text_section",
                    "elements": [
                        {"type": "text", "text": "see "},
                        {"type": "link", "url": "https://ci.example/1", "text": "build"},
                        {"type": "emoji", "name": "tada"},
                    ],
                }
            ],
        },
        {
            "type": "actions",
            "elements": [
                {
                    "type": "button",
                    "text": {"type": "plain_text", "text": "Open"},
                    "url": "https://ci.example",
                }
            ],
        },
    ],
}


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        (
            GRAFANA,
            [
                "[Disk is full](http://grafana.example/alerting/list)",
                *("**Firing**", "", "Value: A=1 < 2", " - host = db & web", "http://grafana.example/p.png"),
            ],
        ),
        (ALERTMANAGER, ["@all look", f"[FIRING:1] InstanceDown (db) {AM}", "severity: page"]),
        (
            GITLAB,
            [
                "Ann pushed to [main](https://git.example/a/b/commits/main) of "
                "[A / B](https://git.example/a/b)",
                *("[1a2b](https://git.example/c/1a2b): a <b> - Ann", "only this"),
            ],
        ),
        (
            SLACK_SDK,
            [
                *("Deployed", "*web* by @ann in #ops, mail", "took", "3 s", "one two"),
                *("see [build](https://ci.example/1):tada:", "[Open](https://ci.example)"),
            ],
        ),
        ({"text": "1 < 2 and <b> stays, <https://a.example>"}, ["1 < 2 and <b> stays, https://a.example"]),
        (
            {
                "text": "x",
                "blocks": [{"type": 7, "elements": [[[3]]]}],
                "attachments": [None, {"fields": "y"}],
            },
            ["x"],
        ),
    ],
)
def test_a_message_in_the_form_of_slack_has_its_text(given: dict[str, Any], lines: list[str]) -> None:
    text, mentions_all = text_of(given)
    assert text.split("\n") == lines
    assert mentions_all is (given is ALERTMANAGER)

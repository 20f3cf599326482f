"""What the product asks of imserver, and what it does with its events. Any web framework can use it."""

import hashlib
import hmac
import os
import smtplib
import time
from email.message import EmailMessage

import jwt
import yaml

from imserver_client import Api

APP = "default"
TOKEN_SECONDS = 3600
EVENT_SECONDS = 300
SMTP_PORT = int(os.environ.get("SMTP_PORT", "8025"))

with open("imserver.yaml", encoding="utf-8") as file:
    SETTINGS = yaml.safe_load(file)
PORT = SETTINGS["app"]["http_port"]
TOKEN_SECRET = SETTINGS["apps"][APP]["jwt"][0]["key"]
WEBHOOK_SECRET = SETTINGS["apps"][APP]["webhook"]["secret"]

api = Api(f"http://127.0.0.1:{PORT}", SETTINGS["api"]["keys"][0]["key"])
mailed = set()  # ids of events. In your product: a table


def client_options(user, host):
    """Return the options of the JavaScript client: where imserver is, and a session token of this user."""
    claims = {"sub": user, "app": APP, "exp": int(time.time()) + TOKEN_SECONDS}
    return {
        "url": f"ws://{host}:{PORT}/acc",
        "httpUrl": f"http://{host}:{PORT}",
        "app": APP,
        "user": user,
        "token": jwt.encode(claims, TOKEN_SECRET, "HS256"),
    }


def online(users):
    """Return user → whether they are online."""
    return {presence.user: presence.online for presence in api.presences(APP, users)}


def is_from_imserver(header, body):
    """Whether the signature of a webhook is right and not old."""
    parts = dict(part.split("=", 1) for part in header.split(",") if "=" in part)
    signed = parts.get("t", "").encode() + b"." + body
    expected = hmac.new(WEBHOOK_SECRET.encode(), signed, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, parts.get("v1", "")):
        return False
    return abs(time.time() - int(parts["t"])) <= EVENT_SECONDS


def handle(event):
    """Send an e-mail to an absent user. An event may come twice: then it has the same id."""
    if event["event"] != "absent" or event["id"] in mailed:
        return
    mail = EmailMessage()
    mail["From"] = "shop@example.org"
    mail["To"] = f"{event['user']}@example.org"
    mail["Subject"] = f"News from {event.get('sender') or 'the shop'}"
    mail.set_content(
        event.get("text") or event.get("preview") or "Somebody wrote to you."
    )
    with smtplib.SMTP("127.0.0.1", SMTP_PORT) as smtp:
        smtp.send_message(mail)
    mailed.add(event["id"])

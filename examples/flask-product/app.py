"""The product: a small Flask application with a news feed, friends and a chat."""

import secrets

from flask import Flask, abort, redirect, render_template, request, session

import im

USERS = ["ann", "bob", "cleo"]  # in your product: a table, and friends of each user
NEWS = []

app = Flask(__name__)
app.secret_key = secrets.token_bytes(32)


def current_user():
    """Return who is logged in to the product. Replace it by your own login."""
    return session.get("user") or abort(401)


@app.get("/")
def page():
    if "user" not in session:
        return render_template("login.html", users=USERS)
    friends = [name for name in USERS if name != current_user()]
    return render_template(
        "index.html", user=current_user(), friends=friends, news=NEWS[-20:]
    )


@app.post("/login")
def login():
    if request.form["user"] not in USERS:
        abort(403)
    session["user"] = request.form["user"]
    return redirect("/")


@app.get("/session")
def client_options():
    return im.client_options(current_user(), request.host.partition(":")[0])


@app.get("/friends")
def friends():
    return im.online([name for name in USERS if name != current_user()])


@app.post("/news")
def publish():
    NEWS.append(f"{current_user()}: {request.form['text']}")
    im.api.push(im.APP, NEWS[-1], all=True)
    return {}


@app.post("/wave")
def wave():
    text = f"{current_user()} waves at you"
    im.api.push(im.APP, text, user=request.form["to"], sender=current_user())
    return {}


@app.post("/im/events")
def events():
    if not im.is_from_imserver(
        request.headers.get("Imserver-Signature", ""), request.data
    ):
        abort(403)
    for event in request.json["events"]:
        im.handle(event)
    return {}

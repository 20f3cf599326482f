"""Steps of the tables of the core. Step 20 makes all tables of version 1.0,
including the tables of features."""

from time import time
from typing import Any, Final
from uuid import uuid4

from imserver.gateway.storage.statements import PooledStatements

_TABLES: Final = """
# One row: the id of this database, and the version that each change of an app or a key raises by one.
# Whoever changes something locks it first, so changes happen one after the other, and whoever has seen a
# version has seen everything up to it.
table directory: one int*, id string32, version big, created big
table app: name name500*, settings text, version big, created big
  unique app_by_version: version name
table api_key: id string16*, digest string64, scopes text, apps text, note text, version big, created big,
    revoked big
  unique api_key_by_version: version id
  unique api_key_by_digest: digest

# The heads: one row per log. A transaction that appends to a log, or changes a conversation of it, locks
# its row first, and holds it to the commit: so ids are in the order of the commits. "part" is for an app
# that outgrows one log; "floor": what has an id up to it has expired.
table log: number serial, app name500, part int, last_id big, last_conversation big, floor big
  unique log_by_app: app part
# "pair": the ids of the two users in their order, with a NUL between; NULL for a group. "open": 1 for a
# group that anybody may join. "options": bits, see "options_of" of the log. "bots": ids of the bots of a
# group, with a comma between them; NULL: none.
ordered conversation: log int*, id big*, kind small, pair bytes511?, name name500, last_seq big, last_id big,
    created big, open small=0, options small=0, bots name500?, avatar name1000?, description name2000?
  unique conversation_by_pair: log pair
# The user may read entries after "readable_after"; NULL: after "joined_id".
ordered membership: log int*, member name255*, conversation big*, joined_id big*, left_id big?, role name16,
    muted_until big, readable_after big?, bot small=0
  unique membership_by_conversation: log conversation member joined_id
# "resend": what names a sender's "client_msg_id" in 16 bytes, NULL without one; "batch": a random number of
# the transaction, by which a writer that lost the answer to its COMMIT finds out; "stored_at": Unix seconds
# by our clock, while "time_ms" is the sender's.
ordered message: log int*, id big*, conversation big, seq big, sender name255, kind small, type name32,
    client_msg_id name64, resend bytes16?, time_ms big, about big, stored_at big, batch big, meta blob,
    body blob
  unique message_by_conversation: log conversation id
  unique message_by_resend: log resend
# One row per user who marked something; locked first by whatever marks more.
ordered mark_version: log int*, member name255*, version big
# "peer_version": between two users, the version of the other one's marks that tells them of "received_id";
# 0 in a group, whose members ask for it.
ordered read_position: log int*, member name255*, conversation big*, read_id big, version big,
    received_id big=0, peer_version big=0
  unique read_position_by_conversation: log conversation member
ordered hidden: log int*, member name255*, id big*, version big
  unique hidden_by_version: log member version id
# "id", here and below: the entry of the log that added the row. The totals of a message are in its "meta",
# so that a page of messages needs no rows from here.
ordered reaction: log int*, message big*, emoji name32*, member name255*, id big
  unique reaction_by_member: log member message emoji
ordered pin: log int*, message big*, conversation big, id big
  unique pin_by_conversation: log conversation id
# "id": the message. "member" '': everybody in the conversation.
ordered mention: log int*, member name255*, conversation big*, id big*
  unique mention_by_message: log id member
# The newest session of each user whose client counts its messages anew on every connection.
ordered uplink_session: log int*, member name255*, session big

# An id is never given twice: whoever is deleted stands in the messages of others. An account without a
# phone number has a unique text in "phone" that no phone number can be. "last_seen": Unix seconds.
table account: id bigserial, app name500, phone name500, nickname string64, avatar string1000,
    password string255, version big, created big, email name254?, name name32?, findable small=1,
    show_presence small=1, last_seen big=0, bot small=0, guest small=0
  unique account_by_phone: app phone
  unique index account_by_email: app email
  unique index account_by_name: app name
  index account_by_guest: guest
# What "account" is to "other": "asked" to be a friend, "friend" (two rows), or "blocked" it.
table relation: account big*, other big*, state string8, since big
  unique relation_by_other: other account
# Logins that have not ended: a token that names one is good as long as its row is there.
table account_device: account big*, id big*, name name255, since big, expires_at big
# "conversation" 0: the invitation is to be a friend of "member". "expires_at": Unix seconds, 0: never.
# "max_uses" 0: no limit.
table invitation: code name32*, app name500, member name255, conversation big, created big, expires_at big,
    uses big, max_uses big, guests small=0
  unique invitation_by_member: app member code
  unique invitation_by_conversation: app conversation code
# "code": SHA-256 in hexadecimal digits. "expires_at": Unix seconds.
table password_reset: code name64*, account big, expires_at big
  unique password_reset_by_account: account code
# Links between accounts and identities at login providers.
table oauth_link: app name500*, provider name32*, subject name255*, account big, since big
  unique oauth_link_by_account: account provider
# "member": the user id in UTF-8, which may contain NUL. "until": Unix milliseconds by the clock of the
# database; in the past for a lifted ban. "version": that of "directory" after the change.
table ban: app name500*, member bytes255*, until big, version big
  unique ban_by_version: version app member

# "id": the account. "owner": an account; 0: the back end. "token_hash": SHA-256 in hexadecimal. "commands":
# JSON. "hook_url", "hook_secret": receiver of what the bot receives; '': none. "hook_entry": it has the
# entries of the log up to this id.
ordered bot: id big*, app name500, owner big, token_hash name64, commands blob, hook_url name1000,
    hook_secret name100, hook_entry big=0, description name2000?, listed small=0
  unique bot_by_owner: app owner id
  index bot_by_listed: app listed id
# What a bot may read in its groups. "id": the entry of the log.
ordered bot_entry: log int*, member name255*, conversation big*, id big*
  unique bot_entry_by_id: log id member
# "id": the account of the bot that sends what comes in. "conversation": the group that gets it.
# "token_hash": SHA-256 in hexadecimal. "created": Unix seconds.
ordered incoming_hook: id big*, app name500, conversation big, token_hash name64, created big
  unique incoming_hook_by_token: token_hash
  unique incoming_hook_by_conversation: app conversation id

table upload: id string32*, app name500, user name500, kind string16, type string64, name text, bytes big,
    sha256 string64, created big, place string16, width int, height int, thumbnail_bytes big,
    thumbnail_type string64
  unique upload_by_owner: app user created id
# What each user has, added up, so that a quota holds however many files come at once.
table upload_usage: app name500*, user name500*, bytes big, files big

# Log positions of users of the action dialect, also per room. Who has a row of a room belongs to it: there
# is one from the first login to it on.
table talk_position: app name500*, member name255*, id big
table room_position: app name500*, member name255*, room name255*, id big

# One row per app with a receiver. "last_id": the last event; whoever adds one locks the row until the
# commit, so ids are in the order of the commits. "entry_id", "event_id": positions of the receiver in the
# message log and in the events; "noted_id": that of the notifications in the message log. "owner" delivers
# until "lease_until", a Unix second of the database's clock.
table event_feed: app name500*, last_id big, entry_id big, event_id big, noted_id big, owner name255,
    lease_until big
# "time": Unix seconds; "body": the fields of the event as a JSON object.
ordered event: app name500*, id big*, member name255, kind name16, time big, body blob
# "body" is what is sent; "next_try" and "first_failed" are Unix seconds.
table event_retry: number serial, app name500, event name64, member name255, attempts int, next_try big,
    first_failed big, dead small, body blob
  unique event_retry_by_event: app event
  unique event_retry_by_member: app dead member number
# A user who was offline when "entry_id" was stored. "due": Unix milliseconds; 0: the event was added.
ordered absence: app name500*, member name255*, conversation big*, entry_id big, due big
  unique absence_by_due: app due member conversation

# One row per app in which somebody can be notified. The log was looked through up to "entry_id".
table notify_app: app name500*, entry_id big
# "digest": SHA-256 of "url" in hexadecimal; "p256dh" and "auth": the keys of the receiver in base64url;
# "device": its name for people; "login": the login that has added it; "created": Unix seconds.
table notify_endpoint: id serial, app name500, member name255, digest name64, url blob, p256dh name100,
    auth name40, device name500, language name16, enabled small, login big, created big
  unique notify_endpoint_by_digest: app digest
  unique notify_endpoint_by_member: app member id
# "wishes": a JSON object. "mail": 1 if the user gets mail. "mail_due": when the next one may be needed,
# Unix milliseconds; 0: nothing is due. "mailed": when the last one was sent, Unix milliseconds, with the
# end of the log and the version of the user's marks then ("mailed_id", "mailed_marks").
ordered notify_person: app name500*, member name255*, wishes blob, mail small, mail_due big, mailed big,
    mailed_id big, mailed_marks big
  unique notify_person_by_due: app mail_due member
# "level": 0 all messages, 1 mentions, 2 nothing. "muted_until": Unix seconds.
ordered notify_conversation: app name500*, member name255*, conversation big*, level small, muted_until big
# A user who may have to be told of "entry_id". "due": when to decide, Unix milliseconds; 0: nothing is to
# be decided. "notified_id": the last entry that the user was told of (0: none), at "notified_at", Unix
# milliseconds.
ordered notify_due: app name500*, member name255*, conversation big*, entry_id big, due big, notified_id big,
    notified_at big
  unique notify_due_by_due: app due member conversation
# A notification to one endpoint. "host": of its URL. "conversation" and "entry_id" 0: of a push that is not
# stored. "next_try": Unix milliseconds; "created": Unix seconds.
table notify_delivery: id serial, app name500, member name255, endpoint int, host name255, kind name16,
    conversation big, entry_id big, topic name32, ttl int, next_try big, attempts int, created big, body blob
  unique notify_delivery_by_host: host next_try id
  unique notify_delivery_by_topic: endpoint topic id
  unique notify_delivery_by_member: app member id

# What users keep about their conversations, for themselves on all devices. "version": that of the user's
# arrangements after the last change; the row of the conversation 0 has the newest one. "pinned": the
# greatest comes first, 0: not pinned. "archived", "marked": ids of entries. "draft": JSON, empty: none.
ordered arrangement: app name500*, member name255*, conversation big*, version big, pinned big, archived big,
    marked big, draft blob
"""


def _make_directory(op: Any) -> None:
    sql = PooledStatements(op.get_bind())
    # MySQL keeps the row of an attempt that a crash has interrupted.
    if not sql.query("SELECT 1 FROM directory"):
        sql.execute(
            "INSERT INTO directory (one, id, version, created) VALUES (1, %s, 0, %s)",
            (uuid4().hex, int(time())),
        )


_ERASURE: Final = """
# "digest": HMAC-SHA256 of app and user by a key of the server, in hexadecimal. "ended": Unix
# milliseconds; 0: it is under way. "name": what stands in place of the user's id from then on.
# "member": the user, until the erasure has ended. "leased": Unix seconds until which a node works
# on it.
table erasure: digest name64*, ended big*, app name500, name name64, member name255, leased big
"""


STEPS: Final = {
    20: _TABLES,
    21: _make_directory,
    23: """
    # "step": the last one that was taken. "tables": the tables in the order of their deletion, as JSON
    # (imserver.gateway.storage.tables), by which a node without the feature erases and exports their rows.
    table feature_schema: feature name255*, step int, tables blob
    """,
    25: """
    # Unix seconds. NULL, as for keys of the previous release: the key does not expire, or was never
    # used. "used_from": the address of its last request.
    columns api_key: expires big?, used big?, used_from name64?
    """,
    27: """
    # Shown to the user; NULL: none.
    columns ban: reason name1000?
    """,
    29: _ERASURE,
    40: """
    # The account that made the key; NULL: none.
    columns api_key: maker big?
    """,
    41: """
    # "step": the last one of the owner that was taken.
    table owner_step: owner name255*, step int
    """,
    # In version 1.0, step 29 was empty. So databases of version 1.0 lack this
    # table.
    42: _ERASURE,
}

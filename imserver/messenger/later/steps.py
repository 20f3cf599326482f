"""Steps of the table of scheduled messages."""

from typing import Final

STEPS: Final = {
    47: """
    # "id": the client_msg_id of the message. "version": counts the changes. "state": 0 waits, 1 was refused
    # for "reason", for which others wait longer. "due", "look", "created": Unix milliseconds by the clock of
    # the database; nodes look at the row at "look": when it is due, or when the node that looked last has not
    # sent it. "awaits": it is sent when "to_user" comes online, at the latest when it is due. "reminds": of
    # this message; 0: of none. "about", "also", "body", "meta", "thread", "type": as in the log.
    table scheduled_message: app name500*, member name255*, id name64*, version big, state small, due big,
        look big, created big, awaits small, to_user name255, conversation big, reminds big, type name64,
        body blob, meta blob, about big, thread big, also small, reason name64
      index scheduled_message_by_look: state look
      index scheduled_message_by_receiver: awaits app to_user
    """
}

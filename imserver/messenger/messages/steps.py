"""Steps of the tables of the message log."""

from typing import Final

STEPS: Final = {
    22: """
    # Ranges as first:last:found, with a comma between them; NULL: none.
    columns log: lost name1000?
    """,
    27: """
    # What a removed message and its edits were, until the removal is final. "act": the removal.
    # "recall": the id of the entry that recalled it. "annotations": its reactions, pin and mentions as
    # JSON.
    table removed_message: log big*, act name32*, id big*, message big, recall big, sender name255,
        kind small, type name64, about big, meta blob, body blob, annotations blob
      unique removed_message_by_id: log id act
    """,
    31: """
    # A segment is a range of ids of one length; "segment": its number. "bucket": a part of the terms of
    # a segment. "terms": MessagePack, term → in which messages of the segment it is.
    ordered word: log big*, segment big*, bucket small*, terms blob
    # "segment": the first one that is not in the index. "changes": counts the changes of its messages.
    # "leased": Unix seconds until which a node works on it.
    table word_position: log big*, segment big, changes big, leased big
    """,
    32: """
    # "id": the reply. "root": the message with which its thread begins. "also": the conversation shows
    # the reply, too.
    ordered thread_reply: log int*, conversation big*, id big*, root big, also small
      unique thread_reply_by_root: log root id
    # "follows": 0 for a user who has muted the thread.
    ordered thread_reader: log int*, member name255*, root big*, conversation big, read_id big,
        follows small
      unique thread_reader_by_root: log root member
    """,
    36: """
    # "id": the message, in "conversation". "entry": what changed it.
    ordered word_change: log big*, id big*, entry big*, conversation big
    # "floor": up to which id the index has no messages, because they have expired. From here on,
    # "changes" is the number of the last claim.
    columns word_position: floor big=0
    """,
    37: """
    # "id": the message with the question. "due": Unix milliseconds by the clock of the database.
    ordered ask_deadline: log big*, id big*, due big
      unique ask_deadline_by_due: due log id
    """,
    45: """
    # Finds groups that anybody may join (1), and those that are everybody's: 2 of members, 3 of guests, too.
    columns conversation: open small=0
      index conversation_by_open: open log id
    """,
    48: """
    # A vote in the poll "id". "choices": a bit for each option; of an anonymous poll in "secret". "time":
    # Unix milliseconds by the clock of the database; 0 in an anonymous poll.
    ordered ask_vote: log big*, id big*, member name255*, choices small, secret small=0, time big
      unique ask_vote_by_time: log id time member
      unique ask_vote_by_member: log member id
    # "due": when the votes of the poll are to be counted, as "due" of "ask_deadline".
    ordered ask_tally: log big*, id big*, due big
      unique ask_tally_by_due: due log id
    """,
    49: """
    # By its handle, a message to any group mentions the members of this one; NULL and '': it has none.
    columns conversation: handle name128?
      index conversation_by_handle: log handle
    """,
}

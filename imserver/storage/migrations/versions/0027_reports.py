"""Reports, removed messages that may come back, mutes in the whole app, members who were removed from a
group, and why a user is banned."""

from typing import Final

from imserver.storage.migrations.table_text import make_tables

revision: Final = "0027"
down_revision: Final = "0026"


def upgrade() -> None:
    """Make what is missing."""
    make_tables(
        """
        # Shown to the user; NULL: none.
        columns ban: reason name1000?
        # What a removed message and its edits were, until the removal is final. "act": the removal.
        # "recall": the id of the entry that recalled it. "annotations": its reactions, pin and mentions as
        # JSON.
        table removed_message: log big*, act name32*, id big*, message big, recall big, sender name255,
            kind small, type name64, about big, meta blob, body blob, annotations blob
          unique removed_message_by_id: log id act
        # A removal that is under way or may be undone. "since" and "until": of the messages, in Unix
        # milliseconds. "reached" and "last": the ids between which messages are still to be looked for.
        # "ends": Unix seconds after which it is final; 0: it stays until somebody decides. "leased": Unix
        # seconds until which a node works on it.
        table removal: app name500*, id name32*, member name255, state small, since big, until big,
            reached big, last big, messages big, created big, ends big, leased big
        # "until": Unix seconds; in the past for a lifted mute. "changed": Unix seconds of the last change.
        table mute: app name500*, member name255*, until big, changed big, reason name1000
        # Users who were removed from a group: they do not come back by a link.
        table removed_member: app name500*, conversation big*, member name255*, created big
        # "message": 0 for a report about a person. "subject": what is reported, while the report is open;
        # then its id. "closed": Unix seconds; 0: it is open.
        table report: app name500*, id name32*, subject name300, message big, conversation big,
            member name255, reporters big, opened big, changed big, closed big, closed_by name400,
            outcome name64, note name2000
          unique report_by_subject: app subject
        table reporter: app name500*, report name32*, member name255*, created big, reason name64,
            text name4000
        """
    )

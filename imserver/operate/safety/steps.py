"""Steps for the tables of reports, removals and mutes."""

from typing import Final

STEPS: Final = {
    27: """
    # A removal that is under way or may be undone. "since" and "until": of the messages, in Unix
    # milliseconds. "reached" and "last": the ids between which messages are still to be looked for.
    # "ends": Unix seconds after which it is final; 0: it stays until somebody decides. "leased": Unix
    # seconds until which a node works on it.
    table removal: app name500*, id name32*, member name255, state small, since big, until big,
        reached big, last big, messages big, created big, ends big, leased big
    # "until": Unix seconds; in the past for a lifted mute. "changed": Unix seconds of the last change.
    table mute: app name500*, member name255*, until big, changed big, reason name1000
    # "message": 0 for a report about a person. "subject": what is reported, while the report is open;
    # then its id. "closed": Unix seconds; 0: it is open.
    table report: app name500*, id name32*, subject name300, message big, conversation big,
        member name255, reporters big, opened big, changed big, closed big, closed_by name400,
        outcome name64, note name2000
      unique report_by_subject: app subject
    table reporter: app name500*, report name32*, member name255*, created big, reason name64,
        text name4000
    """,
    44: """
    # "evidence": the text of the message when it was reported first.
    columns report: evidence name4000=''
    # "changed": Unix seconds.
    table house_rules: app name500*, text name16000, changed big
    """,
}

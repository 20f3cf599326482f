"""Steps of the tables of invitations."""

from typing import Final

STEPS: Final = {
    42: """
    # An invitation that goes to an e-mail address. "id": its code. "state": index in the states of
    # InvitationMail. "reason": what the mail server has said. "leased": Unix seconds until which a node
    # works on it.
    table invitation_mail: app name500*, id name32*, member name255, conversation big, email name254,
        language name16, state small, reason string200, created big, expires_at big, leased big
      unique invitation_mail_by_conversation: app conversation id
    """
}

"""The tools for agents that speak MCP. Each calls a route."""

from typing import Final

from imserver_mcp import Offer, Tool

OFFER: Final = Offer(
    tools=(
        Tool(
            name="claim",
            title="Claim messages",
            description="Get the messages that wait longest, of one conversation, so that no other worker "
            "gets them meanwhile. Afterwards call `ack` or `nack` with the `token`. No token: nothing waits. "
            "`wait` waits for messages, so many seconds.",
            route=("POST", "/mailbox/claim"),
            fields=("seconds", "wait", "limit", "tries"),
            names=True,
        ),
        Tool(
            name="ack",
            title="Acknowledge messages",
            description="Say that you have handled the messages of a claim: nobody gets them again.",
            route=("POST", "/mailbox/ack"),
            fields=("token",),
        ),
        Tool(
            name="nack",
            title="Give messages back",
            description="Give the messages of a claim back, and say why: another worker gets them, after so "
            "many seconds.",
            route=("POST", "/mailbox/nack"),
            fields=("token", "seconds", "reason"),
        ),
        Tool(
            name="renew",
            title="Renew a claim",
            description="Let a claim end later, if you need longer. Call it before the lease ends.",
            route=("POST", "/mailbox/renew"),
            fields=("token", "seconds"),
        ),
    )
)

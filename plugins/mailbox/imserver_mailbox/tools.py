"""The tools for agents that speak MCP. Each calls a route."""

from typing import Final

from imserver_mcp import Offer, Tool

OFFER: Final = Offer(
    tools=(
        Tool(
            name="claim",
            title="Claim messages",
            description=(
                "Get the messages of one conversation that have waited longest. No "
                "other worker gets them until your claim ends. Afterwards, call "
                "`ack` or `nack` with the `token`. No token: no message waits. "
                "With `wait`, the call waits for messages for so many seconds."
            ),
            route=("POST", "/mailbox/claim"),
            fields=("seconds", "wait", "limit", "tries"),
            names=True,
        ),
        Tool(
            name="ack",
            title="Acknowledge messages",
            description=(
                "Report that you have handled the messages of a claim. Then nobody "
                "gets these messages again."
            ),
            route=("POST", "/mailbox/ack"),
            fields=("token",),
        ),
        Tool(
            name="nack",
            title="Give messages back",
            description=(
                "Give back the messages of a claim with a reason. Another worker "
                "gets them after `seconds`."
            ),
            route=("POST", "/mailbox/nack"),
            fields=("token", "seconds", "reason"),
        ),
        Tool(
            name="renew",
            title="Renew a claim",
            description=(
                "Extend a claim if you need more time. Call this before the lease ends."
            ),
            route=("POST", "/mailbox/renew"),
            fields=("token", "seconds"),
        ),
    )
)

"""The parts of bots on one node."""

from msgspec import Struct

from imserver.backends.webhooks import webhooks_of
from imserver.messenger.groups.parts import groups_of
from imserver.people.accounts.parts import accounts_of
from imserver.people.bots.answers import AnswerCommands, StreamedAnswers
from imserver.people.bots.bots import (
    ADDRESS_REQUESTS,
    ADDRESS_SECONDS,
    Bots,
    IncomingHooks,
)
from imserver.people.bots.declared import HOOK_REQUESTS, BotLimits, BotSettings
from imserver.people.bots.hooks import BotHooks
from imserver.people.bots.rows import BotStore, HookStore
from imserver.plugin import Parts
from imserver.plugin.messages import MessageServices
from imserver.plugin.runtime import PublicRequests
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of


class BotParts(Struct, frozen=True):
    """The services for routes, commands and other features."""

    bots: Bots
    incoming: IncomingHooks
    hooks: BotHooks
    answers: StreamedAnswers


def bots_of(core: Core) -> BotParts:
    """The parts of bots on a node."""
    return core.service(BotParts)


def _make_incoming(core: Core, hook_rows: HookStore, bots: Bots) -> IncomingHooks:
    """Build the incoming webhooks, with their rate of requests by address."""
    rate = core.buckets.make(
        HOOK_REQUESTS, ADDRESS_REQUESTS, ADDRESS_SECONDS, core.attempt
    )
    accounts = accounts_of(core).accounts
    return IncomingHooks(
        hook_rows, bots, accounts, groups=groups_of(core), addresses=rate
    )


def build(core: Core) -> Parts:
    """Build the services of bots on a node, and join them to the core.

    They are the bots themselves, the webhooks to which entries are posted, the
    incoming webhooks, and streamed answers.
    """
    people = accounts_of(core)
    messages = core.service(MessageServices)
    rows = BotStore(core.store)
    hook_rows = HookStore(core.store)
    requests = PublicRequests(settings_of(core.config, BotSettings).allow_loopback)

    hooks = _make_hooks(core, hook_rows, requests)
    bots = Bots(
        limits=settings_of(core.config, BotLimits),
        stored=rows,
        accounts=people.accounts,
        sessions=core.sessions,
        store=core.store,
        hooks=hook_rows,
        requests=requests,
        hook_changed=hooks.log.work.changed,
        relations=core.relations,
    )
    incoming = _make_incoming(core, hook_rows, bots)
    answers = StreamedAnswers(core, rows, messages)

    # Tokens of bots are accepted from here on.
    people.tokens.ask(rows.holder)
    commands = {**AnswerCommands(answers).commands(), **bots.commands()}
    return Parts(
        (BotParts(bots, incoming, hooks, answers),),
        commands,
        run=(hooks.log.work.run,),
        stop=hooks.stop,
    )


def _make_hooks(core: Core, rows: HookStore, requests: PublicRequests) -> BotHooks:
    """Build the service that posts entries to the webhooks of bots."""
    webhooks = webhooks_of(core)

    def node_name() -> str:
        return core.node_name  # known only when the node serves

    return BotHooks(
        store=core.store,
        rows=rows,
        events=webhooks.feeds.events,
        requests=requests,
        messaging=core.service(MessageServices).messaging,
        know_bot=accounts_of(core).tokens.know_bot,
        is_banned=core.sessions.is_banned,
        node=node_name,
        tally=webhooks.tally,
    )

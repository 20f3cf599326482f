"""The face: who acts, what they may do, and how often."""

from typing import Any

from imserver.auth.issuers import Issuer
from imserver.auth.observer import Act, Denial, Observer
from imserver.auth.principal import BadSignature, Need, Needs, Principal
from imserver.auth.questions import (
    GOCHAT,
    AccountLookup,
    AccountSession,
    BackEndCall,
    BackEndRefused,
    BackEnds,
    BackEndUnavailable,
    Holder,
    LoginAnswer,
    Relations,
    ReviewDecision,
    Reviews,
)
from imserver.auth.rates import Buckets, Rate, TooManyRequests
from imserver.auth.rules import LoginDecision
from imserver.auth.tenants import Tenant, Tenants
from imserver.auth.tokens import BadKey, BadToken, TokenExpired, UnverifiedClaims, token_end
from imserver.plugin.app_secrets import AppSecrets
from imserver.transport.proxies import is_loopback, network_of

__all__ = [
    "GOCHAT",
    "AccountLookup",
    "AccountSession",
    "Act",
    "AppSecrets",
    "BackEndCall",
    "BackEndRefused",
    "BackEndUnavailable",
    "BackEnds",
    "BadKey",
    "BadSignature",
    "BadToken",
    "Buckets",
    "Denial",
    "Holder",
    "Issuer",
    "LoginAnswer",
    "LoginDecision",
    "Need",
    "Needs",
    "Observer",
    "Principal",
    "Rate",
    "Relations",
    "ReviewDecision",
    "Reviews",
    "Tenant",
    "Tenants",
    "TokenExpired",
    "TooManyRequests",
    "UnverifiedClaims",
    "by_address",
    "token_end",
]


def __getattr__(name: str) -> Any:
    from imserver.plugin.deprecated import form_of  # for plug-ins that were made for an earlier version

    return form_of(__name__, name)


def by_address(app: str, address: str) -> tuple[str, str] | None:
    """Who pays for requests from an address to an app (``""``: to all apps). None: nobody, for this machine.

    What the users of one app do does not count for those of another behind the same address.
    """
    return None if not address or is_loopback(address) else (app, network_of(address))

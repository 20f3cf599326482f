"""The face: who acts, what they may do, and how often."""

from typing import Any

from imserver.gateway.auth.issuers import Issuer as Issuer
from imserver.gateway.auth.json_web_tokens import BadToken as BadToken
from imserver.gateway.auth.json_web_tokens import JsonWebToken as JsonWebToken
from imserver.gateway.auth.observer import Act as Act
from imserver.gateway.auth.observer import Denial as Denial
from imserver.gateway.auth.observer import Observer as Observer
from imserver.gateway.auth.principal import BadSignature as BadSignature
from imserver.gateway.auth.principal import Need as Need
from imserver.gateway.auth.principal import Needs as Needs
from imserver.gateway.auth.principal import Principal as Principal
from imserver.gateway.auth.questions import GOCHAT as GOCHAT
from imserver.gateway.auth.questions import AccountLookup as AccountLookup
from imserver.gateway.auth.questions import AccountSession as AccountSession
from imserver.gateway.auth.questions import BackEndCall as BackEndCall
from imserver.gateway.auth.questions import BackEndRefused as BackEndRefused
from imserver.gateway.auth.questions import BackEnds as BackEnds
from imserver.gateway.auth.questions import BackEndUnavailable as BackEndUnavailable
from imserver.gateway.auth.questions import Holder as Holder
from imserver.gateway.auth.questions import LoginAnswer as LoginAnswer
from imserver.gateway.auth.questions import Relations as Relations
from imserver.gateway.auth.questions import ReviewDecision as ReviewDecision
from imserver.gateway.auth.questions import Reviews as Reviews
from imserver.gateway.auth.rates import Buckets as Buckets
from imserver.gateway.auth.rates import Rate as Rate
from imserver.gateway.auth.rates import TooManyRequests as TooManyRequests
from imserver.gateway.auth.rules import LoginDecision as LoginDecision
from imserver.gateway.auth.tenants import Tenant as Tenant
from imserver.gateway.auth.tenants import Tenants as Tenants
from imserver.gateway.auth.tokens import BadKey as BadKey
from imserver.gateway.auth.tokens import TokenExpired as TokenExpired
from imserver.gateway.auth.tokens import UnverifiedClaims as UnverifiedClaims
from imserver.gateway.auth.tokens import token_end as token_end
from imserver.gateway.transport.proxies import is_loopback, network_of
from imserver.plugin.app_secrets import AppSecrets as AppSecrets


def __getattr__(name: str) -> Any:
    """Return a name of an earlier version, with a warning."""
    if name == "__path__":  # an import asks for it
        raise AttributeError(name)
    # for plug-ins that were made for an earlier version
    from imserver.plugin.deprecated import form_of

    return form_of(__name__, name)


def by_address(app: str, address: str) -> tuple[str, str] | None:
    """Return who pays for requests from an address to an app.

    ``app`` ``""`` means all apps. Requests to one app do not count for users of
    another app behind the same address. Returns None for this machine, where
    nobody pays.
    """
    if not address or is_loopback(address):
        return None
    return (app, network_of(address))

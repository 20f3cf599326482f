"""The face: who acts, what they may do, and how often."""

from typing import Any

from imserver.auth.issuers import Issuer as Issuer
from imserver.auth.observer import Act as Act
from imserver.auth.observer import Denial as Denial
from imserver.auth.observer import Observer as Observer
from imserver.auth.principal import BadSignature as BadSignature
from imserver.auth.principal import Need as Need
from imserver.auth.principal import Needs as Needs
from imserver.auth.principal import Principal as Principal
from imserver.auth.questions import GOCHAT as GOCHAT
from imserver.auth.questions import AccountLookup as AccountLookup
from imserver.auth.questions import AccountSession as AccountSession
from imserver.auth.questions import BackEndCall as BackEndCall
from imserver.auth.questions import BackEndRefused as BackEndRefused
from imserver.auth.questions import BackEnds as BackEnds
from imserver.auth.questions import BackEndUnavailable as BackEndUnavailable
from imserver.auth.questions import Holder as Holder
from imserver.auth.questions import LoginAnswer as LoginAnswer
from imserver.auth.questions import Relations as Relations
from imserver.auth.questions import ReviewDecision as ReviewDecision
from imserver.auth.questions import Reviews as Reviews
from imserver.auth.rates import Buckets as Buckets
from imserver.auth.rates import Rate as Rate
from imserver.auth.rates import TooManyRequests as TooManyRequests
from imserver.auth.rules import LoginDecision as LoginDecision
from imserver.auth.tenants import Tenant as Tenant
from imserver.auth.tenants import Tenants as Tenants
from imserver.auth.tokens import BadKey as BadKey
from imserver.auth.tokens import BadToken as BadToken
from imserver.auth.tokens import TokenExpired as TokenExpired
from imserver.auth.tokens import UnverifiedClaims as UnverifiedClaims
from imserver.auth.tokens import token_end as token_end
from imserver.plugin.app_secrets import AppSecrets as AppSecrets
from imserver.transport.proxies import is_loopback, network_of


def __getattr__(name: str) -> Any:
    if name == "__path__":  # an import asks for it
        raise AttributeError(name)
    from imserver.plugin.deprecated import form_of  # for plug-ins that were made for an earlier version

    return form_of(__name__, name)


def by_address(app: str, address: str) -> tuple[str, str] | None:
    """Who pays for requests from an address to an app (``""``: to all apps). None: nobody, for this machine.

    What the users of one app do does not count for those of another behind the same address.
    """
    return None if not address or is_loopback(address) else (app, network_of(address))

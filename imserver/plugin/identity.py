"""The face: who acts, what they may do, and how often."""

import warnings
from typing import Any

from imserver.auth import login, questions
from imserver.auth.issuers import Issuer
from imserver.auth.observer import Act, Denial, NoObserver
from imserver.auth.principal import BadSignature, Need, Needs, Principal
from imserver.auth.questions import (
    GOCHAT,
    AccountSession,
    BackEndCall,
    BackEndRefused,
    BackEndUnavailable,
    Holder,
    LoginAnswer,
    Relations,
    ReviewDecision,
)
from imserver.auth.rates import Buckets, Rate, TooManyRequests, by_address
from imserver.auth.rules import LoginDecision
from imserver.auth.tenants import AppSecrets, BadTenant, Tenant, Tenants
from imserver.auth.tokens import BadKey, BadToken, TokenExpired, UnverifiedClaims, token_end

__all__ = [
    "GOCHAT",
    "AccountSession",
    "Act",
    "AppSecrets",
    "BackEndCall",
    "BackEndRefused",
    "BackEndUnavailable",
    "BadKey",
    "BadSignature",
    "BadTenant",
    "BadToken",
    "Buckets",
    "Denial",
    "Holder",
    "Issuer",
    "LoginAnswer",
    "LoginDecision",
    "Need",
    "Needs",
    "NoObserver",
    "Principal",
    "Rate",
    "Relations",
    "ReviewDecision",
    "Tenant",
    "Tenants",
    "TokenExpired",
    "TooManyRequests",
    "UnverifiedClaims",
    "by_address",
    "token_end",
]


def __getattr__(name: str) -> Any:
    """``BackEnds`` and ``Logins`` of version 3, until 2.0."""
    if name not in ("BackEnds", "Logins"):
        raise AttributeError(name)
    warnings.warn(
        f"{__name__}.{name} is deprecated: it is in core.identity", DeprecationWarning, stacklevel=2
    )
    return questions.BackEnds if name == "BackEnds" else login.Logins

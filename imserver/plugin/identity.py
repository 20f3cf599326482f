"""The face: who acts, what they may do, and how often."""

from imserver.auth.accounts import BOT_TOKEN_PREFIX, GOCHAT, AccountLookup, AccountSession
from imserver.auth.app_secrets import AppSecrets
from imserver.auth.authority import bearer
from imserver.auth.back_ends import BackEndCall, BackEndRefused, BackEnds, BackEndUnavailable, LoginAnswer
from imserver.auth.channel_tokens import ChannelClaims
from imserver.auth.identifiers import (
    LOGIN_CHARACTERS,
    NAME_PATTERN,
    BadField,
    candidates,
    checked,
    fits,
    split,
)
from imserver.auth.issuers import Issuer
from imserver.auth.login import Logins
from imserver.auth.names import cleaned, is_name
from imserver.auth.observer import NoObserver, Observer
from imserver.auth.principal import BadSignature, Need, Needs, Principal, may
from imserver.auth.rates import PUBLICATIONS, Buckets, Rate, SenderRates, Shared, TooManyRequests, by_address
from imserver.auth.relations import Relations
from imserver.auth.reviews import ReviewDecision, Reviews
from imserver.auth.rules import LoginDecision, secret_in
from imserver.auth.tenants import BadTenant, Tenant, Tenants, TooManyTenants
from imserver.auth.tokens import (
    MAX_EXPIRES_AT,
    MAX_TOKEN_CHARACTERS,
    BadKey,
    BadToken,
    TokenExpired,
    UnverifiedClaims,
    VerifiedPayload,
    bytes_of,
    decode_claims,
    decode_unverified,
    end_of,
    unverified,
    verified_payload,
)

__all__ = [
    "BOT_TOKEN_PREFIX",
    "GOCHAT",
    "LOGIN_CHARACTERS",
    "MAX_EXPIRES_AT",
    "MAX_TOKEN_CHARACTERS",
    "NAME_PATTERN",
    "PUBLICATIONS",
    "AccountLookup",
    "AccountSession",
    "AppSecrets",
    "BackEndCall",
    "BackEndRefused",
    "BackEndUnavailable",
    "BackEnds",
    "BadField",
    "BadKey",
    "BadSignature",
    "BadTenant",
    "BadToken",
    "Buckets",
    "ChannelClaims",
    "Issuer",
    "LoginAnswer",
    "LoginDecision",
    "Logins",
    "Need",
    "Needs",
    "NoObserver",
    "Observer",
    "Principal",
    "Rate",
    "Relations",
    "ReviewDecision",
    "Reviews",
    "SenderRates",
    "Shared",
    "Tenant",
    "Tenants",
    "TokenExpired",
    "TooManyRequests",
    "TooManyTenants",
    "UnverifiedClaims",
    "VerifiedPayload",
    "bearer",
    "by_address",
    "bytes_of",
    "candidates",
    "checked",
    "cleaned",
    "decode_claims",
    "decode_unverified",
    "end_of",
    "fits",
    "is_name",
    "may",
    "secret_in",
    "split",
    "unverified",
    "verified_payload",
]

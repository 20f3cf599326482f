"""HTTP problems of accounts."""

from __future__ import annotations

from typing import Final

from imserver.plugin.errors import HttpProblem

HTTP_WRONG_LOGIN: Final = HttpProblem(401, "wrong_login", "The login or the password is wrong.")
HTTP_REGISTRATION_CLOSED: Final = HttpProblem(
    403, "registration_closed", "Registration is closed (accounts.registration)."
)
HTTP_PASSWORDS_OFF: Final = HttpProblem(
    403, "passwords_off", "Accounts of this app have no passwords (accounts.passwords)."
)
HTTP_FACTOR_REQUIRED: Final = HttpProblem(
    401, "second_factor_required", "The account has a second factor: send a code of it as well."
)
HTTP_WRONG_CODE: Final = HttpProblem(
    401, "wrong_code", "The code of the second factor is wrong, or was used before."
)
HTTP_FACTOR_ON: Final = HttpProblem(409, "second_factor_on", "The account has a second factor already.")
HTTP_FACTOR_OFF: Final = HttpProblem(409, "second_factor_off", "The account has no second factor.")
HTTP_ACCOUNT_LOCKED: Final = HttpProblem(403, "account_locked", "The account is locked.")
HTTP_UNKNOWN_DEVICE: Final = HttpProblem(
    404, "unknown_device", "The account has no such device, or its login has ended."
)
HTTP_UNKNOWN_RESET: Final = HttpProblem(
    404, "unknown_reset", "No such code to reset a password, or it has expired or was used."
)
HTTP_UNKNOWN_CONFIRMATION: Final = HttpProblem(
    404, "unknown_confirmation", "No such link to confirm an e-mail address, or it has expired."
)
HTTP_NO_GUEST: Final = HttpProblem(409, "no_guest", "The account is not that of a guest.")
HTTP_LOGIN_TAKEN: Final = HttpProblem(
    409, "login_taken", "An account with this phone number, e-mail address or user name already exists."
)
HTTP_TOO_MANY_FRIENDS: Final = HttpProblem(
    409, "too_many_friends", "One of the two would have more friends than accounts.friends."
)

PROBLEMS: Final = (
    HTTP_WRONG_LOGIN,
    HTTP_REGISTRATION_CLOSED,
    HTTP_PASSWORDS_OFF,
    HTTP_FACTOR_REQUIRED,
    HTTP_WRONG_CODE,
    HTTP_FACTOR_ON,
    HTTP_FACTOR_OFF,
    HTTP_ACCOUNT_LOCKED,
    HTTP_UNKNOWN_DEVICE,
    HTTP_UNKNOWN_RESET,
    HTTP_UNKNOWN_CONFIRMATION,
    HTTP_NO_GUEST,
    HTTP_LOGIN_TAKEN,
    HTTP_TOO_MANY_FRIENDS,
)
"""All of them."""

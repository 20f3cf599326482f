"""Types of columns for steps that are functions, until 2.0: a step is a
text."""

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    """Return ``Columns`` of version 3, with a warning."""
    if name != "Columns":
        raise AttributeError(name)
    from imserver.gateway.storage.migrations.table_text import Columns

    warnings.warn(
        f"{__name__} is deprecated: write the step as a text",
        DeprecationWarning,
        stacklevel=2,
    )
    return Columns

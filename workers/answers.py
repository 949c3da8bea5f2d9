"""What a round says of each piece of work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shared.errors import PermanentError, TransientError
from shared.models import Outcome
from workers.failures import ElsewhereError, NotNowError


@dataclass(frozen=True, slots=True)
class Result:
    """How a piece of work ended, with what a person wants to know of it."""

    outcome: Outcome
    details: dict[str, Any] = field(default_factory=dict)


Answer = Result | NotNowError | ElsewhereError | TransientError | PermanentError

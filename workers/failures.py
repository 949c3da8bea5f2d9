"""What becomes of a job that did not end in an outcome; the one place that classifies errors."""

from __future__ import annotations

import random
from dataclasses import dataclass

from rq.exceptions import DeserializationError
from rq.timeouts import JobTimeoutException

from shared.errors import PermanentError, TransientError
from shared.settings import Settings


class NotNowError(Exception):
    """The job is run again a little later, which costs it no retry."""

    def __init__(self, why: str, seconds: float) -> None:
        """`why` is for the trace; `seconds` from now it is run again."""
        super().__init__(why)
        self.why = why
        self.seconds = seconds


class GatewayBusyError(NotNowError):
    """Another worker has the gateway."""


class ElsewhereError(Exception):
    """What is left of the job has to be done by a worker on another node."""

    def __init__(self, node: str, pods_done: list[str]) -> None:
        """`pods_done` holds the UIDs of the gateway's pods that were done here."""
        super().__init__(f"the gateway's pod is on node {node}")
        self.node = node
        self.pods_done = pods_done


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an error may pass by itself, and what to tell the operator."""

    transient: bool
    reason: str
    error: str
    """Its class."""
    foreseen: bool = True
    """Whether the reason says all there is to say; otherwise the traceback does."""

    @property
    def cause(self) -> str | None:
        """What tells failed jobs apart for people; None where only the reason does."""
        return None if self.error in (PermanentError.__name__, TransientError.__name__) else self.error

    @property
    def counted_as(self) -> str:
        """What it is called where only so many names may be."""
        return self.error if self.foreseen else "unexpected"


def classify(error: BaseException) -> Verdict:
    """Judge what a job raised. What nobody foresaw is taken as transient: a retry decides anew and does no harm."""
    name = type(error).__name__
    if isinstance(error, PermanentError):
        return Verdict(transient=False, reason=str(error), error=name)
    if isinstance(error, TransientError):
        return Verdict(transient=True, reason=str(error), error=name)
    if isinstance(error, JobTimeoutException):
        return Verdict(
            transient=True,
            reason="the gateway or the API took longer than EIP_RECLAIMER_JOB_TIMEOUT to answer",
            error=name,
        )
    if isinstance(error, DeserializationError):
        return Verdict(
            transient=False,
            reason="the job's data cannot be read as JSON. Nothing was done; drop this job.",
            error=name,
        )
    return Verdict(
        transient=True,
        reason=f"unexpected {type(error).__name__}: {error}. Please report it with the traceback below.",
        error=name,
        foreseen=False,
    )


def backoff(attempt: int, settings: Settings) -> float:
    """Seconds before the next try: twice as long each time, half of it jitter, so that failures do not come in waves.

    Args:
        attempt: how many tries failed so far, from 1.
        settings: base and ceiling.
    """
    ceiling: float = min(settings.retry_base * 2 ** min(attempt - 1, 30), settings.retry_ceiling)
    return ceiling / 2 + random.uniform(0, ceiling / 2)  # noqa: S311 - jitter, not a secret

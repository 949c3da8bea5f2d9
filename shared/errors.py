"""What can go wrong, as types: each message says what happened and what the operator can do.

Two kinds decide what becomes of a job (design, "Outcomes"): a `TransientError` is retried with backoff and then
fails, a `PermanentError` fails at once. Everything a driver, the Kubernetes access or a guard raises is one of them.
"""

from __future__ import annotations


class ReclaimerError(Exception):
    """Base of every error this project raises on purpose."""


class TransientError(ReclaimerError):
    """It may go well later: the job is retried with backoff, then moved to the FailedJobRegistry."""


class PermanentError(ReclaimerError):
    """It can never go well as asked: the job fails at once, nothing was changed."""


class GatewayUnreachableError(TransientError):
    """The gateway's pod could not be entered, or what ran there ended abnormally."""


class NoActivePodError(TransientError):
    """The gateway exists, but none of its pods runs."""


class VerificationError(TransientError):
    """Looking again showed something else than what was to be true."""


class LockLostError(TransientError):
    """The gateway's lock ran out or was taken over before the change; nothing was changed after that."""


class ApiUnavailableError(TransientError):
    """The Kubernetes API did not answer, or refused."""

    def __init__(self, message: str, status: int = 0) -> None:
        """`status` is the HTTP status code; 0 where there was no answer that could be read."""
        super().__init__(message)
        self.status = status


class InvalidPayloadError(PermanentError):
    """A job, an object or a setting does not have the shape it must have."""


class ProtectedAddressError(PermanentError):
    """The address is the gateway's own, or the subnet's; it is never taken away."""


class MalformedObjectError(ReclaimerError):
    """An object of the API does not have the shape Kube-OVN gives it; it is reported and skipped."""


class WrongClusterError(ReclaimerError):
    """The Redis data belongs to another Kubernetes cluster."""


class UnknownNameError(ReclaimerError):
    """Nothing of that name is there."""


class DoubtfulListError(ReclaimerError):
    """What the API lists cannot be right, or nothing is known that it could be compared with."""

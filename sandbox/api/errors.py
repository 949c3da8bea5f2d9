"""What the API answers when it refuses: `Status` objects, worded as kube-apiserver 1.36 words them."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox.api.resources import Object, Resource

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class StatusError(Exception):
    """A refusal, as a Status object.

    `reason` None leaves the field out, as the real server does for errors it did not foresee.
    """

    def __init__(
        self,
        code: int,
        message: str,
        *,
        reason: str | None = None,
        details: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.details = details
        self.metadata = metadata or {}

    @property
    def body(self) -> Object:
        """The Status object."""
        status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": dict(self.metadata),
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = dict(self.details)
        status["code"] = self.code
        return status


def plain(code: int, message: str | None = None) -> StatusError:
    """A refusal with the usual reason for its code."""
    phrase = message if message is not None else _phrase(code)
    return StatusError(code, phrase, reason=REASONS.get(code, "InternalError"))


def _phrase(code: int) -> str:
    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return "unknown"


def bad_request(message: str) -> StatusError:
    """400: the request cannot be understood."""
    return plain(400, message)


def not_found(resource: Resource, name: str) -> StatusError:
    """404: no such object."""
    return StatusError(
        404,
        f'{resource.qualified} "{name}" not found',
        reason="NotFound",
        details=_details(name, resource.group, resource.plural),
    )


def already_exists(resource: Resource, name: str) -> StatusError:
    """409 on creation: the name is taken."""
    return StatusError(
        409,
        f'{resource.qualified} "{name}" already exists',
        reason="AlreadyExists",
        details=_details(name, resource.group, resource.plural),
    )


STALE = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(resource: Resource, name: str, why: str = STALE) -> StatusError:
    """409 on a change: the object is not the one the caller knew."""
    return StatusError(
        409,
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}',
        reason="Conflict",
        details=_details(name, resource.group, resource.plural),
    )


def forbidden(resource: Resource, name: str, why: str, *, quoted: bool = True, group: bool = True) -> StatusError:
    """403: known, and not allowed."""
    subject = f'{resource.qualified} "{name}"' if quoted and name else resource.qualified
    return StatusError(
        403,
        f"{subject} is forbidden: {why}",
        reason="Forbidden",
        details=_details(name, resource.group if group else "", resource.plural),
    )


def invalid(
    kind: str, group: str, name: str, field: str, message: str, cause: str = "FieldValueInvalid"
) -> StatusError:
    """422: one field of the object (or of the list options) cannot be."""
    qualified = f"{kind}.{group}" if group else kind
    details = _details(name, group, kind)
    details["causes"] = [{"reason": cause, "message": message, "field": field}]
    return StatusError(422, f'{qualified} "{name}" is invalid: {field}: {message}', reason="Invalid", details=details)


def invalid_object(
    resource: Resource, name: str, field: str, message: str, cause: str = "FieldValueInvalid"
) -> StatusError:
    """422 for an object of a resource."""
    return invalid(resource.kind, resource.group, name, field, message, cause)


def method_not_allowed() -> StatusError:
    """405."""
    return StatusError(
        405,
        "the server does not allow this method on the requested resource",
        reason="MethodNotAllowed",
        details={},
    )


def unsupported_media_type(accepted: Sequence[str]) -> StatusError:
    """415: a patch in a format the resource does not take."""
    return StatusError(
        415,
        f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}",
        reason="UnsupportedMediaType",
    )


def future_version(asked: int, current: int) -> StatusError:
    """504: a resourceVersion that has not been reached; the caller may come back."""
    return StatusError(
        504,
        f"Timeout: Too large resource version: {asked}, current: {current}",
        reason="Timeout",
        details={
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        },
    )


def expired(message: str, continue_token: str | None = None) -> StatusError:
    """410: the history asked for is gone; `continue_token` goes on with the list as it is now."""
    metadata = {"continue": continue_token} if continue_token else None
    return StatusError(410, message, reason="Expired", metadata=metadata)


def _details(name: str, group: str, kind: str) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if name:
        details["name"] = name
    if group:
        details["group"] = group
    details["kind"] = kind
    return details

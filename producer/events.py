"""What an object in a list or an event says about EIPs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.difference import Change, Gone, Seen
from shared.errors import MalformedObjectError
from shared.kube.objects import read_eip
from shared.log import get_logger

if TYPE_CHECKING:
    from shared.kube.api import Object

log = get_logger(__name__)


def change_of(obj: Object, *, gone: bool) -> Change | None:
    """What an object says; None, after reporting it, when it cannot be read."""
    try:
        eip = read_eip(obj)
    except MalformedObjectError as error:
        log.error("object cannot be read, skipped", reason=str(error))
        # Gone is gone: what was known of it before is released.
        uid = uid_of(obj)
        return Gone(uid, "deleted") if gone and uid else None
    return Gone(eip.uid, "deleted", eip) if gone else Seen(eip)


def uid_of(obj: object) -> str:
    """The object's UID; empty where it has none that can be read."""
    return str(_metadata(obj).get("uid") or "")


def version_of(obj: object) -> int | None:
    """The object's resourceVersion; None where it has none that can be read."""
    text = str(_metadata(obj).get("resourceVersion") or "")
    return int(text) if text.isdigit() else None


def _metadata(obj: object) -> Object:
    metadata = obj.get("metadata") if isinstance(obj, dict) else None
    return metadata if isinstance(metadata, dict) else {}

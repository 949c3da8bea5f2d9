"""Payloads of jobs, as JSON types."""

from __future__ import annotations

from typing import Any

RELEASE: dict[str, Any] = {
    "kind": "release",
    "id": "release-u1",
    "cluster": "c1",
    "gateway": "gw1",
    "eip": "eip-1",
    "uid": "u1",
    "namespace": None,
    "seen_at": 1000.0,
    "addresses": ["10.1.69.205"],
    "subnet": None,
    "reason": "deleted",
    "was_ready": True,
}


def release(**fields: Any) -> dict[str, Any]:
    """A release's payload."""
    return {**RELEASE, **fields}


def confirmation(**fields: Any) -> dict[str, Any]:
    """A confirmation's payload."""
    common = {field: value for field, value in RELEASE.items() if field not in ("reason", "was_ready")}
    return {**common, "kind": "confirmation", **fields}

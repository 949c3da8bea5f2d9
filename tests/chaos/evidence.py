"""What a run left behind for the judge: facts with times, from whoever knows them first-hand.

All times are seconds since the epoch, on the one clock of this machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Span = tuple[float, float]
FOREVER = float("inf")


@dataclass
class Life:
    """One EIP, from the API's own history and Kube-OVN's own record."""

    uid: str
    name: str
    gateway: str
    created: float
    address: str | None = None
    visible: float = FOREVER
    """Since when its object names the address."""
    gone: float = FOREVER
    placed: dict[str, float] = field(default_factory=dict)
    """By pod UID, when Kube-OVN had put the address on."""


@dataclass(frozen=True)
class Change:
    """An address came (again) or went: a notification of the pod's kernel."""

    at: float
    pod: str
    address: str
    added: bool


@dataclass(frozen=True)
class Addition:
    """Kube-OVN's `eip-add` in one pod."""

    started: float
    done: float
    pod: str
    address: str
    uid: str


@dataclass
class Pod:
    """One pod of a gateway while its namespace was there."""

    uid: str
    gateway: str
    born: float
    ended: float = FOREVER
    final: frozenset[str] | None = None
    """The EIP addresses it carried when all was quiet; None for one that had ended."""


@dataclass
class Act:
    """One opening of a gateway's pod by a worker process; the change in it lasts from `began` to `ended`."""

    process: int
    """The number of the worker process: each that was started has its own."""
    pod: str
    opened: float
    began: float | None = None
    ended: float = FOREVER
    closed: float = FOREVER


@dataclass(frozen=True)
class Foreign:
    """Something that no EIP is about was changed in a pod: the kernel's words."""

    at: float
    pod: str
    what: str


@dataclass
class Work:
    """One piece of work in the queue's own records."""

    id: str
    uid: str | None
    gateway: str
    seen: float
    """When a producer saw what it is about."""
    reason: str
    outcomes: list[str]
    reclaimed_at: list[float]
    failed: str | None = None
    """Why it lies among the failed jobs."""
    pending: bool = False
    """Whether it waits or runs still."""


@dataclass(frozen=True)
class Outage:
    """Redis, the API or every producer did not answer."""

    what: Literal["redis", "api", "producers"]
    since: float
    until: float


@dataclass
class Evidence:
    """Everything the judge is given."""

    lives: list[Life]
    pods: dict[str, Pod]
    changes: list[Change]
    additions: list[Addition]
    acts: list[Act]
    foreign: list[Foreign]
    works: list[Work]
    killed: dict[int, float] = field(default_factory=dict)
    """By the number of a producer or worker process, when it was killed."""
    stopped: dict[int, list[Span]] = field(default_factory=dict)
    """By the number of a producer or worker process, when it was stopped and woken."""
    outages: list[Outage] = field(default_factory=list)
    rolled_back: float = 0.0
    """When Redis last came back from an older copy: its records of what ended before may be lost."""
    lock_life: float = 30.0
    quiet: float = 0.0
    """When the last fault was over."""
    end: float = 0.0
    """When the last look was taken."""

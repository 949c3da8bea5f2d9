"""What the controller does wrong, and how long it takes over each thing: switches that may change while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import argparse

Release = Literal["v1.12", "v1.16"]


@dataclass
class Leaks:
    """Each leak of Kube-OVN's, on or off. With all of them off every released address leaves its gateway."""

    wrong_argument: bool = False
    """`eip-del` gets the subnet's CIDR instead of the address (kubeovn/kube-ovn#4718)."""

    deletion_before_ready: Release | None = None
    """What comes of an EIP that is deleted while its creation runs: as in `v1.12` its address is left, as in `v1.16`
    the object is created anew, with the same name and address and another UID."""

    failing_eip_add: bool | frozenset[str] = False
    """`eip-add` fails after it put the address on: for all EIPs, or for those with these names. They never become
    ready, are tried again and again, and leave their address when they are deleted."""

    down: bool = False
    """What was deleted while the controller was down is not picked up when it starts: the object stays terminating
    until its finalizer is removed by hand, and its address is left then."""

    death_mid_creation: bool = False
    """The controller dies when `eip-add` has returned and nothing is written yet. It turns itself off by that."""

    def fails(self, eip: str) -> bool:
        """Whether `eip-add` fails for the EIP of this name."""
        return self.failing_eip_add if isinstance(self.failing_eip_add, bool) else eip in self.failing_eip_add


@dataclass
class Delays:
    """How long things take, in seconds."""

    before_eip_add: float = 0
    """Between the allocation and `eip-add`."""
    eip_add_before: float = 0
    """Inside `eip-add`, before the address is on."""
    eip_add_after: float = 0
    """Inside `eip-add`, after that."""
    hidden_moment: float = 0
    """Between `eip-add` and the first update of the object: the gateway serves an address that no object names."""
    before_eip_del: float = 0
    """Between the deletionTimestamp and `eip-del`."""
    before_finalizer_removal: float = 0
    """Between `eip-del` and the finalizer's removal."""
    before_release: float = 0
    """Between the finalizer's removal and the address' return to IPAM."""
    retry: float = 1
    """Before something that failed is tried again."""
    exec_timeout: float = 60
    """How long a command in a pod may take."""


@dataclass
class Switches:
    """All of the controller's behaviour that can be chosen."""

    leaks: Leaks = field(default_factory=Leaks)
    delays: Delays = field(default_factory=Delays)
    release: Release = "v1.16"
    """Whose order of updates, finalizer and script: v1.12 writes spec, status, labels and finalizer one after another;
    v1.16 writes labels along with the spec."""


LEAK_NAMES = (
    "wrong-argument",
    "deletion-before-ready=v1.12",
    "deletion-before-ready=v1.16",
    "failing-eip-add",
    "down",
    "death-mid-creation",
)
_DELAY_NAMES = tuple(Delays.__dataclass_fields__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a command line the options that `from_arguments` reads."""
    group = parser.add_argument_group("what the controller does wrong, and when")
    group.add_argument("--leak", action="append", default=[], choices=LEAK_NAMES, help="may be given several times")
    group.add_argument("--release", choices=("v1.12", "v1.16"), default="v1.16", help="whose order of updates")
    for name in _DELAY_NAMES:
        default = Delays.__dataclass_fields__[name].default
        option = "--" + name.replace("_", "-")
        group.add_argument(option, type=float, default=default, metavar="SECONDS", help=f"default {default}")


def from_arguments(arguments: argparse.Namespace) -> Switches:
    """The switches that a command line asks for."""
    leaks = Leaks()
    for text in arguments.leak:
        name, _, value = text.replace("-", "_").partition("=")
        setattr(leaks, name, value or True)
    delays = Delays(**{name: getattr(arguments, name) for name in _DELAY_NAMES})
    return Switches(leaks, delays, arguments.release)

"""The main job, played for real: `make demo`, or `python -m sandbox.demo [--json]` with the rights for namespaces.

The case the problem was first seen with (kubeovn/kube-ovn#4718), on a gateway in network namespaces: Kube-OVN's
controller runs `eip-del` with the wrong argument, the address stays, and eip-reclaimer takes it off. Every line on the
screen is looked up when it is printed; the exit status is 1 when one of them is false.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sandbox.flow import Flow
from sandbox.privileges import require_rights
from sandbox.processes import ProcessDiedError
from sandbox.segments import answers
from sandbox.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.netns import NetworkNamespace

GATEWAY = "v-gw-383c4e1251c1194e"
EIPS = {
    "iptableseip-vzstoprc": "10.1.69.202",
    "iptableseip-yqdmlwxn": "10.1.69.203",
    "iptableseip-eesesquk": "10.1.69.205",
    "iptableseip-jntiodwf": "10.1.69.206",
    "kubem001eip": "10.1.69.208",
}
"""As in the issue; the first one is the interface's primary address, because the gateway has no default EIP."""
BYSTANDER = "10.1.69.206"
"""The EIP whose traffic must not suffer."""


@dataclass
class Scene:
    """What is claimed of one deletion, and whether it holds."""

    title: str
    looks: dict[str, list[str]] = field(default_factory=dict)
    """When → the addresses on the gateway's external interface then, in the kernel's order."""
    claims: list[dict[str, Any]] = field(default_factory=list)
    flow: dict[str, Any] | None = None
    """What became of a TCP connection through another EIP meanwhile (`FlowReport`)."""
    trace: dict[str, Any] | None = None

    @property
    def holds(self) -> bool:
        """Whether all that is claimed is true."""
        return all(claim["holds"] for claim in self.claims)


class Demo:
    """Plays scenes on a stage, and tells of them as they happen."""

    def __init__(self, stage: Stage, console: Console) -> None:
        self.scenes: list[Scene] = []
        self._stage = stage
        self._cluster = stage.cluster
        self._console = console
        self._client: NetworkNamespace
        self._routes_before: list[str] = []

    def play(self) -> None:
        """Set the stage, and play all scenes."""
        say = self._console.print
        say("[bold]A gateway with five EIPs[/bold], and every part a process of its own")
        self._cluster.add_subnet()
        self._cluster.add_gateway(GATEWAY, no_default_eip=True)
        self._client = self._cluster.attach_client()
        # The pause between `eip-del` and the object's end is for us to look at what Kube-OVN's own attempt did.
        self._stage.start_controller("--leak", "wrong-argument", "--before-finalizer-removal", "1")
        for name, address in EIPS.items():
            self._cluster.create_eip(name, GATEWAY, address)
        producer = self._stage.start_producer()
        self._stage.start_workers("exec", "netlink")
        say("  " + ", ".join(f"{process.name} (process {process.pid})" for process in self._stage.processes))
        self._one_of_many()
        self._primary()
        self._reused()
        self._while_the_producer_was_down(producer)

    def _one_of_many(self) -> None:
        with self._scene("One EIP of five is deleted, while a TCP connection runs through another") as scene:
            self._delete_leaked(scene, "iptableseip-eesesquk")
            scene.trace = json.loads(self._stage.run("cli", "trace", "iptableseip-eesesquk", "--json"))
            self._console.print("  its life, as [bold]eip-reclaimer trace iptableseip-eesesquk[/bold] tells it:")
            for line in self._stage.run("cli", "trace", "iptableseip-eesesquk").splitlines():
                self._console.print("    " + line, markup=False, highlight=False)

    def _primary(self) -> None:
        title = "The primary address is deleted: on its own the kernel would take all others and the routes along"
        with self._scene(title) as scene:
            first = self._addresses()[0]
            self._claim(scene, f"{first} is the primary, promote_secondaries is 0", self._is_cascading(first))
            self._delete_leaked(scene, "iptableseip-vzstoprc")
            self._claim(scene, "promote_secondaries is 0 again", self._promotes() == "0")

    def _reused(self) -> None:
        with self._scene("A deleted EIP's address is given to a new EIP at once: it is not ours to take") as scene:
            old, new, address = "iptableseip-yqdmlwxn", "iptableseip-newowner", EIPS["iptableseip-yqdmlwxn"]
            before = self._look(scene, "before")
            self._cluster.delete_eip(old, wait_gone=False)
            self._cluster.create_eip(new, GATEWAY, address, wait_ready=False)
            outcome = self._stage.wait_for(lambda: self._stage.outcome(old), f"the outcome of {old}")
            self._cluster.wait_ready(new)
            after = self._look(scene, "after eip-reclaimer")
            self._claim(scene, f"the release of {old} ended as reassigned", outcome == "reassigned")
            self._claim(scene, f"{new} is ready and has {address}", address in after)
            self._claim(scene, "nothing on the gateway changed", after == before)
            self._claim(scene, f"{address} answers", answers(self._client, address))

    def _while_the_producer_was_down(self, producer: Any) -> None:
        with self._scene("An EIP is deleted while no producer runs") as scene:
            name, address = "kubem001eip", EIPS["kubem001eip"]
            self._stage.end(producer)
            before = self._look(scene, "before")
            self._cluster.delete_eip(name)
            without = self._look(scene, "object gone, no producer")
            self._claim(scene, f"{address} leaked: the object is gone, the address is there", address in without)
            self._stage.start_producer()
            outcome = self._stage.wait_for(lambda: self._stage.outcome(name), f"the outcome of {name}")
            after = self._look(scene, "after a new producer came")
            self._claim(scene, f"the release ended as {outcome}", outcome == "reclaimed")
            self._claim(scene, f"{address} is gone, all others are there", after == _without(before, address))

    def _delete_leaked(self, scene: Scene, name: str) -> None:
        """Delete an EIP whose address Kube-OVN leaves, and see that it goes, and only it."""
        address = EIPS[name]
        before = self._look(scene, "before")
        routes = self._routes()
        self._claim(scene, f"{address} answers", answers(self._client, address))
        flow = Flow(self._client, self._namespace, BYSTANDER)
        self._cluster.delete_eip(name, wait_gone=False)
        self._stage.wait_for(lambda: self._stage.did("address_left", eip=name), "Kube-OVN's own attempt")
        attempt = self._stage.did("eip_del_started", eip=name)[0].detail
        succeeded = bool(self._stage.did("eip_del_done", eip=name))
        left = self._look(scene, "after Kube-OVN's own attempt")
        text = f"Kube-OVN ran `{attempt}`: exit status 0, and {address} is still there"
        self._claim(scene, text, succeeded and address in left)
        outcome = self._stage.wait_for(lambda: self._stage.outcome(name), f"the outcome of {name}")
        after = self._look(scene, "after eip-reclaimer")
        self._claim(scene, f"the release ended as {outcome}", outcome == "reclaimed")
        self._claim(scene, f"{address} is gone, all others are there", after == _without(before, address))
        self._claim(scene, "the routes are the same", self._routes() == routes)
        report = flow.stop()
        scene.flow = asdict(report)
        text = (
            f"all the while TCP moved through {BYSTANDER}: {report.blocks} blocks there and back, the slowest in "
            f"{report.longest * 1000:.0f} ms, {report.sent_again} segments sent again"
        )
        self._claim(scene, text, report.unharmed)
        self._claim(scene, f"{address} answers nobody", not answers(self._client, address))

    # What is true now.

    @property
    def _namespace(self) -> NetworkNamespace:
        return self._cluster.pod(GATEWAY).namespace

    def _addresses(self) -> list[str]:
        return self._cluster.addresses(GATEWAY)

    def _routes(self) -> list[str]:
        """The main table. The connected route's preferred source follows the primary address; that is not a change."""
        lines = self._namespace.ip("route").splitlines()
        return [line.split(" src ")[0].rstrip() for line in lines]

    def _promotes(self) -> str:
        path = "/proc/sys/net/ipv4/conf/net1/promote_secondaries"
        return self._namespace.run("cat", path).stdout.strip()

    def _is_cascading(self, first: str) -> bool:
        """Whether the address is primary, and its plain deletion would take the others along."""
        entries = json.loads(self._namespace.ip("-j", "addr", "show", "dev", "net1"))[0]["addr_info"]
        primaries = [entry["local"] for entry in entries if entry["family"] == "inet" and not entry.get("secondary")]
        return primaries == [first] and self._promotes() == "0"

    # What is told.

    @contextmanager
    def _scene(self, title: str) -> Iterator[Scene]:
        scene = Scene(title)
        self.scenes.append(scene)
        self._console.print(f"\n[bold]{len(self.scenes)}. {title}[/bold]")
        yield scene

    def _look(self, scene: Scene, when: str) -> list[str]:
        addresses = scene.looks[when] = self._addresses()
        self._console.print(f"  {when:<30} net1  {' '.join(addresses)}", highlight=False)
        return addresses

    def _claim(self, scene: Scene, text: str, holds: bool) -> None:
        scene.claims.append({"claim": text, "holds": holds})
        mark = "[green]✓[/green]" if holds else "[bold red]✗ FALSE:[/bold red]"
        self._console.print(f"  {mark} {text}", highlight=False)


def _without(addresses: list[str], address: str) -> list[str]:
    return [each for each in addresses if each != address]


def main() -> int:
    """Play, and tell whether everything that was claimed is true."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.demo", description="The main job, played for real.")
    parser.add_argument("--json", action="store_true", help="print one JSON object when all is over, nothing before")
    arguments = parser.parse_args()
    require_rights()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(quiet=arguments.json, soft_wrap=True)
    failure = None
    scenes: list[Scene] = []
    try:
        with Stage() as stage:
            demo = Demo(stage, console)
            scenes = demo.scenes
            demo.play()
    except (ProcessDiedError, TimeoutError, OSError) as error:
        failure = str(error)
        console.print(f"[bold red]{type(error).__name__}[/bold red]")
        console.print(failure, markup=False)
    left = _left_behind(stage)
    holds = failure is None and not left and all(scene.holds for scene in scenes)
    if arguments.json:
        report = {"holds": holds, "gateway": GATEWAY, "failure": failure, "left_behind": left}
        sys.stdout.write(json.dumps({**report, "scenes": [asdict(scene) for scene in scenes]}, indent=2) + "\n")
    console.print()
    console.print(f"[bold red]✗ left behind:[/bold red] {left}" if left else "[green]✓[/green] nothing is left behind")
    verdict = "[bold green]Everything above is true.[/bold green]"
    console.print(verdict if holds else "[bold red]Not everything above is true.[/bold red]")
    return 0 if holds else 1


def _left_behind(stage: Stage) -> list[str]:
    """Processes and files of ours that are still there."""
    processes = [f"process {process.name} ({process.pid})" for process in stage.processes if process.running]
    return processes + ([str(stage.directory)] if stage.directory.exists() else [])


if __name__ == "__main__":
    sys.exit(main())

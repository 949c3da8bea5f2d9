"""`python -m sandbox.eips`: what a user does with a running sandbox's EIPs, and what its gateways carry.

    python -m sandbox.eips --state DIR show
    python -m sandbox.eips --state DIR create NAME GATEWAY [ADDRESS]
    python -m sandbox.eips --state DIR delete NAME

DIR is that of `python -m sandbox`, or the variable SANDBOX_STATE. `show` enters the gateways, which needs the rights
that the sandbox itself has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox import objects
from sandbox.kubernetes_api import ApiError, KubernetesApi
from sandbox.objects import EIPS
from sandbox.segments import shown_addresses

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandbox.objects import Object

PATIENCE_SECONDS = 30.0
"""How long an EIP may take to be ready, or gone."""
OWN, NOBODYS = "the gateway's own", "nobody's"


def main() -> int:
    """Read the command line and do it; exit status 1 with a line that says why where it cannot be done."""
    arguments = _parser().parse_args()
    try:
        asyncio.run(_run(arguments))
    except (ApiError, OSError, TimeoutError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"{str(error) or type(error).__name__}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox.eips", description="A sandbox's EIPs.")
    state = os.environ.get("SANDBOX_STATE")
    parser.add_argument(
        "--state", type=Path, default=state, required=state is None, help="the sandbox's; default: SANDBOX_STATE"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("show", help="whose each address on the gateways is")
    create = commands.add_parser("create", help="as a user does, and wait until it is ready")
    create.add_argument("name")
    create.add_argument("gateway")
    create.add_argument("address", nargs="?", help="a free one without")
    delete = commands.add_parser("delete", help="as a user does, and wait until it is gone")
    delete.add_argument("name")
    return parser


async def _run(arguments: argparse.Namespace) -> None:
    async with KubernetesApi.from_kubeconfig(arguments.state / "kubeconfig") as api:
        match arguments.command:
            case "show":
                eips, _ = await api.list(EIPS)
                gateways = json.loads((arguments.state / "sandbox.json").read_text())["gateways"]
                _table([("GATEWAY", "INTERFACE", "ADDRESS", "WHOSE"), *_carried(gateways, eips)])
            case "create":
                body = objects.eip(arguments.name, arguments.gateway, v4ip=arguments.address)
                await api.create(EIPS, body)
                eip = await _wait(api, arguments.name, ready=True)
                assert eip is not None
                _say(f"{arguments.name} is ready: {eip['status']['ip']} on {arguments.gateway}")
            case "delete":
                eip = await api.get(EIPS, arguments.name)
                if eip is None:
                    raise ApiError(404, f"there is no EIP {arguments.name}")
                await api.delete(EIPS, arguments.name)
                await _wait(api, arguments.name, ready=False)
                _say(f"{arguments.name} is gone: {', '.join(_addresses(eip))} on {eip['spec']['natGwDp']}")


async def _wait(api: KubernetesApi, name: str, *, ready: bool) -> Object | None:
    """The EIP once it is ready, or None once it is gone."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            eip = await api.get(EIPS, name)
            if (eip is not None and (eip.get("status") or {}).get("ready")) if ready else eip is None:
                return eip
            await asyncio.sleep(0.1)


def _carried(gateways: dict[str, Any], eips: Sequence[Object]) -> Iterator[tuple[str, str, str, str]]:
    """Gateway, external interface, address and whose it is, as the kernel has them now."""
    owners = {(eip["spec"]["natGwDp"], address): _called(eip) for eip in eips for address in _addresses(eip)}
    for gateway, pods in gateways.items():
        for pod in pods:
            _, *external = pod["interfaces"]
            for interface in external:
                for address in _in_kernel(pod["netns"], interface):
                    own = OWN if address in pod["interfaces"][interface] else NOBODYS
                    yield gateway, interface, address, owners.get((gateway, address), own)


def _in_kernel(namespace: str, interface: str) -> list[str]:
    command = ("nsenter", f"--net={namespace}", "--", "ip", "-j", "addr", "show", "dev", interface)
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [each["local"] for each in shown_addresses(shown)]


def _addresses(eip: Object) -> list[str]:
    status, spec = eip.get("status") or {}, eip["spec"]
    found = (status.get("ip"), spec.get("v4ip"), spec.get("v6ip"))
    return list(dict.fromkeys(address for address in found if address))


def _called(eip: Object) -> str:
    name: str = eip["metadata"]["name"]
    return f"{name}, terminating" if eip["metadata"].get("deletionTimestamp") else name


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        _say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())

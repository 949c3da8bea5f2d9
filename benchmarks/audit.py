"""The audit of a large cluster: `python -m benchmarks.audit --eips 10000 --gateways 100 --report DIR`.

The command `eip-reclaimer audit` as a process of its own, over exec, on gateways in network namespaces: how long it
takes, how much memory, what the API is asked. Beside it, in the same run, a tenth of the cluster, and the same cluster
with gateways read one at a time, so that the figures are ratios that another machine would show too. A leak per gateway
is there to be found, so that every gateway is looked at twice. DIR/audit.json holds the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sandbox.cluster import SandboxCluster
from shared.kube.api import EIPS
from tests.conftest import variables
from tests.measuring import prepare, write_json
from tests.prepared import add_addresses, add_eips

SUBNET, CIDR, ROUTER, LENGTH = "external", "10.64.0.0/12", "10.79.255.254", 12
ONE_AT_A_TIME = "import workers.audits.survey as s; s.AT_ONCE = 1; from cli.main import main; main()"
PAUSE = 2.0


def main() -> int:
    """Make the cluster, audit it in each way, report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__)
    parser.add_argument("--eips", type=int, default=10_000)
    parser.add_argument("--gateways", type=int, default=100)
    parser.add_argument("--report", type=Path, default=Path("bench-report"))
    arguments = parser.parse_args()
    prepare()
    with SandboxCluster() as cluster:
        cluster.add_subnet(SUBNET, CIDR, ROUTER)
        cluster.stop_controller()
        leaks = populate(cluster, arguments.eips, arguments.gateways)
        tenth = [f"--gateway=gw-{number}" for number in range(max(1, arguments.gateways // 10))]
        found = {
            "all": measured(cluster, leaks),
            "a tenth of the gateways": measured(cluster, {gateway: leaks[gateway[10:]] for gateway in tenth}, *tenth),
            "all, one gateway at a time": measured(cluster, leaks, program=["-c", ONE_AT_A_TIME]),
        }
    whole = found["all"]["seconds"]
    facts = {
        "eips": arguments.eips,
        "gateways": arguments.gateways,
        "cores": os.cpu_count(),
        "pause between two looks, in each": PAUSE,
        "ways": found,
        "times as long as all": {name: round(way["seconds"] / whole, 2) for name, way in found.items()},
    }
    write_json(arguments.report / "audit.json", facts)
    sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    return 0


def populate(cluster: SandboxCluster, eips: int, gateways: int) -> dict[str, str]:
    """EIPs, their addresses, and a leak on each gateway; the leaks by gateway."""
    each = eips // gateways
    wanted: dict[str, tuple[str, str]] = {}
    leaks = {}
    for number in range(gateways):
        gateway = f"gw-{number}"
        cluster.add_gateway(gateway, (SUBNET,))
        second, third = 65 + number // 250, number % 250
        addresses = [f"10.{second}.{third}.{1 + host}" for host in range(each)]
        wanted |= {f"eip-{number}-{host}": (gateway, address) for host, address in enumerate(addresses)}
        leaks[gateway] = f"10.{second}.{third}.{1 + each}"
        add_addresses(cluster, gateway, [*addresses, leaks[gateway]], LENGTH)
    add_eips(cluster, wanted, SUBNET)
    return leaks


def measured(
    cluster: SandboxCluster, leaks: dict[str, str], *flags: str, program: list[str] | None = None
) -> dict[str, Any]:
    """One audit: seconds, MiB at the most, requests by what they are about; it has to find exactly the leaks."""
    before = counts(cluster)
    settings = {"kubeconfig": cluster.kubeconfig, "external_subnet": SUBNET, "audit_pause": PAUSE}
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *(program or ["-m", "cli"]), "audit", "--json", "--without-redis", *flags],
            env={**os.environ, **variables(**settings)},
            stdout=output,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        reports = json.loads(output.read())["reports"]
    found = {each["gateway"]: each["address"] for report in reports for each in report["findings"] if each["mendable"]}
    assert process.returncode == 1, process.returncode
    assert sorted(found.values()) == sorted(leaks.values())
    return {
        "seconds": round(seconds, 2),
        "cpu seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "MiB": round(usage.ru_maxrss / 1024, 1),
        "addresses": sum(len(report["carried"]) for report in reports),
        "requests": {name: count - before[name] for name, count in counts(cluster).items()},
    }


def counts(cluster: SandboxCluster) -> dict[str, int]:
    """Requests to the API so far."""
    requests = cluster.server.requests
    return {
        "pages of EIPs": requests.count(verb="list", prefix=EIPS),
        "single EIPs": requests.count(verb="get", prefix=EIPS),
        "execs": requests.count(verb="exec"),
        "all": requests.count(),
    }


if __name__ == "__main__":
    sys.exit(main())

"""Kube-OVN's controller with its bug, and with hidden moments of random length: `python -m tests.chaos.controller`."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from pathlib import Path

from sandbox.controller import Controller
from sandbox.controller_command import serve
from sandbox.kubernetes_api import KubernetesApi
from sandbox.leaks import Delays, Leaks, Switches
from sandbox.placement import NamespaceExecutor
from sandbox.pods import LOCAL_SCRIPT
from sandbox.record import Records

SOMETIMES = 0.12
SHORT = (0.0, 0.5)
RARELY = 0.03
LONG = (0.5, 3.0)


class RandomDelays(Delays):
    """Mostly no hidden moment, sometimes a short one, rarely a long one: additions wait for each other."""

    def __getattribute__(self, name: str) -> float:
        if name != "hidden_moment":
            return float(super().__getattribute__(name))
        chance = random.random()
        if chance < RARELY:
            return random.uniform(*LONG)
        return random.uniform(*SHORT) if chance < RARELY + SOMETIMES else 0.0


async def run(arguments: argparse.Namespace) -> int:
    """Run until told to end; the exit status."""
    random.seed(arguments.seed)
    leaks = Leaks(wrong_argument=True, deletion_before_ready="v1.12")
    switches = Switches(leaks, RandomDelays(retry=0.5, exec_timeout=10))
    async with KubernetesApi(arguments.server) as api:
        records = Records(arguments.records)
        executor = NamespaceExecutor(arguments.netns_dir, LOCAL_SCRIPT)
        return await serve(Controller(api, switches=switches, run=executor, reuse="newest", records=records))


def main() -> int:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.controller", description=__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--netns-dir", type=Path, required=True)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())

"""What grows when nothing goes wrong: `python -m tests.soak --minutes 30 --rate 5 --report DIR`.

Producers, workers with either driver, Kube-OVN's controller with its bug, and EIPs that come and go at a steady rate.
Every few seconds it is looked how much memory, how many descriptors, sockets, threads and namespaces the product's
processes have, and how many keys of each kind are in Redis. After a warm-up none of it may grow. What is kept of
finished releases must have stopped growing by then, so Redis keeps it for a few minutes instead of the days that are
the default, and producers (`tests.soak.forgetful`) remember the last few hundred instead of thousands.

DIR/soak.json has every sample, DIR/soak.svg shows them. The exit status is 1 when something grows, or when a release
came to no end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sandbox.processes import Process
from tests.measuring import MeasuredStage, machine, prepare, write_json
from tests.soak.chart import draw
from tests.soak.forgetful import REMEMBERED_WORKS
from tests.soak.growth import TOLERANCES, WARM_UP, WINDOW, growing
from tests.soak.samples import Logs, Samples, of_processes, of_redis
from tests.soak.steady import SteadyLives

SAMPLE_SECONDS = 5.0
HISTORY_SECONDS = 180.0
"""How long finished history is kept, where the run is long enough to see it go."""
HISTORY_SHARE = 0.1
"""How much of the run's length it is kept at most."""
PRODUCERS = 2
DRIVERS = ("exec", "netlink", "exec", "netlink")
GATEWAYS = 8
SUBNET, CIDR, ROUTER = "external", "10.64.0.0/16", "10.64.255.254"
CONTROLLER = ("--leak", "wrong-argument", "--leak", "deletion-before-ready=v1.12", "--hidden-moment", "0.03")
END_SECONDS = 180.0
"""How long the last releases may take: one of an EIP that was never ready is looked at again after a minute."""


class Soak:
    """One run on a stage that has started."""

    def __init__(self, stage: MeasuredStage, rate: float, seed: int) -> None:
        self._stage = stage
        self._redis = stage.work_queue.redis
        self.gateways = [f"gw-{number}" for number in range(GATEWAYS)]
        stage.cluster.add_subnet(SUBNET, CIDR, ROUTER)
        for number, gateway in enumerate(self.gateways):
            stage.cluster.add_gateway(gateway, [SUBNET], replicas=2 if number == 0 else 1)
        self._at_rest = {gateway: self._addresses(gateway) for gateway in self.gateways}
        stage.start_controller("--netns-dir", str(stage.cluster.netns_dir), *CONTROLLER)
        self._processes = [*self._producers(), *self._workers()]
        self.logs = Logs(self._processes)
        self.samples = Samples()
        self.lives = SteadyLives(stage.cluster.entrance, self.gateways, SUBNET, rate=rate, seed=seed)

    def run(self, seconds: float) -> None:
        """Let EIPs come and go for so long, and take samples."""
        self.lives.start()
        began = time.monotonic()
        number = 0
        while (at := time.monotonic() - began) < seconds:
            self.lives.check()
            self._stage.processes[0].expect_running()
            self.samples.add(at, self._sample())
            number += 1
            time.sleep(max(0.0, began + number * SAMPLE_SECONDS - time.monotonic()))

    def end(self) -> dict[str, Any]:
        """Let all EIPs go; what has not come to its end then."""
        self.lives.stop()
        deadline = time.monotonic() + END_SECONDS
        while (unfinished := self._unfinished()) and time.monotonic() < deadline:
            time.sleep(0.5)
        self.logs.read_on()
        left = {gateway: sorted(self._addresses(gateway) - self._at_rest[gateway]) for gateway in self.gateways}
        return {
            "EIPs and releases that are not finished": unfinished,
            "failed jobs": self._stage.work_queue.queue.failed_job_registry.count,
            "addresses left on gateways": sum(map(len, left.values())),
        }

    def _sample(self) -> dict[str, dict[str, float]]:
        self.logs.read_on()
        return {
            **of_processes(self._processes),
            **of_redis(self._redis),
            "EIPs": {"alive": self.lives.alive},
            "so far": {
                "EIPs created": self.lives.created,
                "EIPs deleted": self.lives.deleted,
                **{f"outcome {outcome}": count for outcome, count in sorted(self.logs.outcomes.items())},
            },
        }

    def _unfinished(self) -> int:
        keys = self._stage.work_queue.keys
        known = self._redis.hlen(keys.inventory)
        return known + sum(self._redis.hlen(keys.pending(gateway)) for gateway in self.gateways)

    def _addresses(self, gateway: str) -> set[tuple[str, str]]:
        return {
            (pod.name, address)
            for pod in self._stage.cluster.pods(gateway)
            for address in self._stage.cluster.addresses(gateway, pod=pod.name)
        }

    def _producers(self) -> list[Process]:
        names = [f"producer {number}" for number in range(PRODUCERS)]
        return self._started([self._stage.launch(name, "tests.soak.forgetful") for name in names])

    def _workers(self) -> list[Process]:
        names = {f"worker {number}, {driver}": driver for number, driver in enumerate(DRIVERS)}
        return self._started([self._stage.launch(name, "cli", "worker", driver=names[name]) for name in names])

    def _started(self, processes: list[Process]) -> list[Process]:
        for process in processes:
            said = f'"{process.name.split()[0]} started"'
            self._stage.wait_for(lambda p=process, s=said: s in p.log.read_text(), process.name)  # type: ignore[misc]
        return processes


def main() -> int:
    """Read what is asked for, run, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=os.environ.get("MINUTES", "30"), help="how long")
    parser.add_argument("--rate", type=float, default=os.environ.get("RATE", "2"), help="EIPs created each second")
    parser.add_argument("--seed", type=int, default=1, help="what chance is made of")
    parser.add_argument("--report", type=Path, default=Path("chaos-report"), help="where the report is written")
    parser.add_argument("--keep", action="store_true", help="keep the processes' logs beside the report")
    arguments = parser.parse_args()
    prepare()
    arguments.report.mkdir(parents=True, exist_ok=True)
    history = min(HISTORY_SECONDS, arguments.minutes * 60 * HISTORY_SHARE)
    settings = {"history_days": round(history / 86400, 6), "intent_lifetime": history}
    with MeasuredStage(**settings) as stage:
        soak = Soak(stage, arguments.rate, arguments.seed)
        soak.run(arguments.minutes * 60)
        ends = soak.end()
        about = machine(stage.work_queue.redis)
        for log in stage.directory.glob("*.log") if arguments.keep else ():
            shutil.copy(log, arguments.report)
    samples, lives = soak.samples, soak.lives
    grown = growing(samples.seconds, samples.series)
    kept = not grown and not any(ends.values())
    kept_up = not lives.never_ready and not any(growth.kind == "EIPs" for growth in grown)
    facts = {
        "kept": kept,
        "grows": [asdict(growth) for growth in grown],
        "at the end": ends,
        "the sandbox kept up with the rate": kept_up,
        "EIPs": {
            "created": lives.created,
            "deleted": lives.deleted,
            "never ready": lives.never_ready,
            "created each second": round(lives.created / (arguments.minutes * 60), 2),
        },
        "outcomes": dict(sorted(soak.logs.outcomes.items())),
        "logged warnings and errors": dict(soak.logs.complaints.most_common(20)),
        "settings": {
            "minutes": arguments.minutes,
            "rate": arguments.rate,
            "seed": arguments.seed,
            "gateways": GATEWAYS,
            "producers": PRODUCERS,
            "workers": DRIVERS,
            "product": {**settings, "works a producer remembers": REMEMBERED_WORKS, "all others": "defaults"},
            "seconds between samples": SAMPLE_SECONDS,
            "share of the time that is warm-up": round(WARM_UP, 3),
            "share of the rest that medians are of": WINDOW,
            "tolerances": {kind: asdict(tolerance) for kind, tolerance in TOLERANCES.items()},
        },
        "machine": about,
        "seconds": samples.seconds,
        "series": samples.series,
    }
    write_json(arguments.report / "soak.json", facts)
    draw(arguments.report / "soak.svg", samples)
    for name in ("EIPs", "outcomes", "at the end", "logged warnings and errors"):
        sys.stdout.write(f"{name}: {facts[name]}\n")
    for growth in grown:
        sys.stdout.write(f"GROWS: {growth.kind}: {growth.name}, by {growth.by:g} from {growth.before:g}\n")
    if not kept_up:
        sys.stdout.write(
            "The sandbox did not keep up with the rate, so what grows with the EIPs there are says nothing.\n"
        )
    sys.stdout.write(f"{'Nothing grows.' if kept else 'Not kept.'} Report: {arguments.report / 'soak.json'}\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

"""What controllers and kubelets would do with the chart's workloads, with processes in place of pods.

`Nodes.roll_out` reads Deployments and DaemonSets from the API and replaces what runs of an older template: a new pod
begins, becomes ready as its readiness probe says, and only then an old one is told to end (SIGTERM), has its grace
period, and is killed (SIGKILL) when that has run out. Each pod has an address of the loopback of its own, so that all
listen on the ports that the chart says. Its variables are those that a kubelet would give it.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.processes import Process
from tests.helm.environment import environment
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.helm.chart import Object
    from tests.helm.cluster import Installation

READY_SECONDS = 60.0


@dataclass
class RunningPod:
    """A process that stands for a pod."""

    name: str
    workload: str
    node: str
    template: str
    """What it was made of, as text."""
    process: Process
    address: str
    readiness: Mapping[str, Any]
    """Path and port of its readiness probe."""
    grace: float
    told_to_end: float | None = None

    @property
    def ready(self) -> bool:
        """Whether its readiness probe goes well."""
        try:
            url = f"http://{self.address}:{self.readiness['port']}{self.readiness['path']}"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def variable(self, name: str) -> str | None:
        """A variable of the process that runs."""
        pairs = Path(f"/proc/{self.process.pid}/environ").read_bytes().decode().split("\0")
        return dict(pair.split("=", 1) for pair in pairs if "=" in pair).get(name)


@dataclass
class Nodes:
    """The nodes of an installation, and the processes that run there."""

    installation: Installation
    names: tuple[str, ...]
    resolved: Mapping[str, str]
    """HOST:PORT as the cluster's DNS knows it, and where that is here."""
    extra: Mapping[str, str]
    """Variables that stand for what the host of a pod would have."""
    running: list[RunningPod] = field(default_factory=list)
    ended: list[tuple[RunningPod, int | None, bool]] = field(default_factory=list)
    """Pods that were replaced, with their exit status and whether they had to be killed."""
    _numbers: count[int] = field(default_factory=lambda: count(1))
    _endings: list[threading.Thread] = field(default_factory=list)

    @property
    def _network(self) -> str:
        """The beginning of the pods' addresses, which no other test process has."""
        return f"127.{64 + os.getpid() % 64}.{os.getpid() // 64 % 256}"

    def roll_out(self) -> None:
        """Let what runs become what the API says, one pod after another."""
        wanted: set[str] = set()
        for each in self.installation.objects("apps/v1/deployments"):
            wanted.add(each["metadata"]["name"])
            self._roll(each, [self.names[0]] * each["spec"]["replicas"])
        for each in self.installation.objects("apps/v1/daemonsets"):
            wanted.add(each["metadata"]["name"])
            self._roll(each, list(self.names))
        for pod in [each for each in self.running if each.workload not in wanted]:
            self._end(pod)

    def of(self, workload: str) -> list[RunningPod]:
        """The pods of a workload that run."""
        return [each for each in self.running if each.workload == workload]

    def close(self) -> None:
        """End all, and wait until they have ended."""
        for pod in list(self.running):
            self._end(pod)
        self.settle()

    def settle(self) -> None:
        """Wait until all that were told to end have."""
        for ending in self._endings:
            ending.join()

    def _roll(self, workload: Object, places: list[str]) -> None:
        name = workload["metadata"]["name"]
        template = json.dumps(workload["spec"]["template"], sort_keys=True)
        old = [each for each in self.of(name) if each.template != template]
        recreate = workload["spec"].get("strategy", {}).get("type") == "Recreate"
        if recreate:
            for pod in old:
                self._end(pod)
            self.settle()
            old = []
        missing = list(places)
        for pod in self.of(name):
            if pod.template == template:
                missing.remove(pod.node)
        for node in missing:
            self._start(workload, template, node)
            # Its own predecessor on that node, or just one.
            for pod in [each for each in old if each.node == node][:1]:
                old.remove(pod)
                self._end(pod)
        for pod in old:
            self._end(pod)

    def _start(self, workload: Object, template: str, node: str) -> None:
        number = next(self._numbers)
        name = f"{workload['metadata']['name']}-{number}"
        address = f"{self._network}.{number}"
        pod = self._pod(workload["spec"]["template"], name, node, address)
        process = self._process(pod, address)
        (container,) = pod["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        probe = container["readinessProbe"]["httpGet"]
        running = RunningPod(
            name=name,
            workload=workload["metadata"]["name"],
            node=node,
            template=template,
            process=process,
            address=address,
            readiness={"path": probe["path"], "port": ports[probe["port"]]},
            grace=float(pod["spec"]["terminationGracePeriodSeconds"]),
        )
        self.running.append(running)
        try:
            eventually(lambda: process.running and running.ready, f"{name} to be ready", READY_SECONDS)
        except AssertionError:
            raise AssertionError(f"{name} is not ready:\n{process.last_words()}") from None

    def run(self, body: Object) -> Process:
        """Run a pod that ends by itself, such as that of `helm test`; it has ended."""
        address = f"{self._network}.{next(self._numbers)}"
        process = self._process(self._pod(body, body["metadata"]["name"], self.names[0], address), address)
        eventually(lambda: not process.running, f"{process.name} to end")
        return process

    def _pod(self, body: Object, name: str, node: str, address: str) -> Object:
        """A pod as the scheduler and the kubelet have completed it."""
        return {
            "metadata": {**body["metadata"], "name": name, "namespace": self.installation.namespace},
            "spec": {**body["spec"], "nodeName": node},
            "status": {"podIP": address},
        }

    def _process(self, pod: Object, address: str) -> Process:
        """The process of a pod's one container."""
        (container,) = pod["spec"]["containers"]
        assert container["command"] == ["eip-reclaimer"]
        variables = environment(pod, self.installation.object, self.installation.objects("v1/services"))
        for there, here in {**self.resolved, "0.0.0.0": address}.items():
            variables = {variable: value.replace(there, here) for variable, value in variables.items()}
        if pod["spec"].get("automountServiceAccountToken", True):
            kubeconfig = self.installation.kubeconfig(pod["spec"]["serviceAccountName"])
            variables["EIP_RECLAIMER_KUBECONFIG"] = str(kubeconfig)
        name = pod["metadata"]["name"]
        log = self.installation.directory / f"{name}.log"
        return Process(name, log, "cli", *container["args"], env={**variables, **self.extra})

    def _end(self, pod: RunningPod) -> None:
        """Tell a pod to end, and see to it beside everything else."""
        self.running.remove(pod)
        pod.told_to_end = time.monotonic()
        os.kill(pod.process.pid, signal.SIGTERM)

        def end() -> None:
            deadline = time.monotonic() + pod.grace
            while pod.process.running and time.monotonic() < deadline:
                time.sleep(0.05)
            killed = pod.process.running
            if killed:
                pod.process.kill()
            self.ended.append((pod, pod.process.status, killed))

        ending = threading.Thread(target=end, name=f"end {pod.name}")
        ending.start()
        self._endings.append(ending)

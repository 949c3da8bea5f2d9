"""Writes down what happens, from outside: the kernel's notifications, the API's history, the workers' acts, the queue.

Nothing of the product's code is used here, and of the sandbox's only where it listens. The kernel's words are those of
`ip monitor` in each pod's namespace; the API's come from a watch through the entrance that no fault concerns.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis import Redis

from tests.chaos.evidence import Act, Addition, Change, Foreign, Life, Pod, Work

EIPS = "/apis/kubeovn.io/v1/iptables-eips"
GATEWAY_PODS = "/api/v1/pods?labelSelector=ovn.kubernetes.io/vpc-nat-gw%3Dtrue"
EIP_ADDRESSES = ip_network("10.64.0.0/17")
"""Of the external subnet's 10.64.0.0/16, what EIPs get; whatever else is on a gateway is none of our business."""

_LINE = re.compile(r"\[(?P<at>[^\]]+)\] \[(?P<what>ADDR|ROUTE|RULE)\](?P<gone>Deleted )?(?P<rest>.*)")
_ADDRESS = re.compile(r"\d+:\s+(?P<interface>\S+)\s+inet6? (?P<address>[0-9a-f.:]+)/(?P<length>\d+)")
EIP_LENGTH = "16"
"""That of EIPs' addresses here. One of another length is a stand-in: the same address a second time, for a moment."""
COMMAND_SECONDS = 2.0
"""How long Kube-OVN's command may go on in a pod after its controller died."""
_OF_THE_KERNEL = re.compile(r"proto kernel|table local|^(local|broadcast|anycast|multicast) |^(fe80::|ff00::|none )")


def is_eip_address(text: str) -> bool:
    """Whether an address is one of those that EIPs get in this run."""
    return ip_address(text) in EIP_ADDRESSES


class PodWitness:
    """Listens to one pod's kernel from now on."""

    def __init__(self, uid: str, gateway: str, namespace: Path, directory: Path) -> None:
        self.pod = Pod(uid, gateway, time.time())
        self._file = directory / f"kernel-{uid}.txt"
        self._namespace = namespace.readlink()
        with self._file.open("wb") as out:
            self._monitor = subprocess.Popen(
                self._inside("ip", "-o", "-ts", "-rc", "4194304", "monitor", "label", "address", "route", "rule"),
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        with contextlib.suppress(PermissionError):
            # To write down at once what happens, also on a busy machine.
            os.setpriority(os.PRIO_PROCESS, self._monitor.pid, -15)
        deadline = time.monotonic() + 10
        while not self._listening():
            if self._monitor.poll() is not None or time.monotonic() > deadline:
                raise OSError(f"ip monitor does not listen in pod {uid}: {self._file.read_text()}")
            time.sleep(0.01)
        self._before = self._snapshot()

    def end(self) -> None:
        """The pod is about to go: what happens there from now on is nobody's doing."""
        self.pod.ended = time.time()
        self.close()

    def look(self) -> None:
        """Take the last look, and stop listening."""
        snapshot = self._snapshot()
        self.pod.final = frozenset(filter(is_eip_address, snapshot["addresses"]))
        self._after = snapshot
        self.close()

    def close(self) -> None:
        """Stop listening."""
        self._monitor.terminate()
        self._monitor.wait()

    def changes(self) -> Iterator[Change]:
        """Of EIPs' addresses, those that were there already first."""
        for address in filter(is_eip_address, self._before["addresses"]):
            yield Change(self.pod.born, self.pod.uid, address, added=True)
        for at, what, gone, rest in self._lines():
            found = _ADDRESS.match(rest) if what == "ADDR" else None
            if found and is_eip_address(found["address"]) and found["length"] == EIP_LENGTH:
                yield Change(at, self.pod.uid, found["address"], added=not gone)

    def foreign(self) -> Iterator[Foreign]:
        """What was taken away that no EIP is about, and what is not as it was."""
        for at, what, gone, rest in self._lines():
            found = _ADDRESS.match(rest) if what == "ADDR" else None
            if found and is_eip_address(found["address"]):
                continue
            if gone and not _OF_THE_KERNEL.search(rest):
                yield Foreign(at, self.pod.uid, f"{what} deleted: {rest.strip()}")
        if self.pod.final is not None:
            for part in ("routes", "rules", "settings"):
                if self._before[part] != self._after[part]:
                    different = sorted(set(self._before[part]) ^ set(self._after[part]))
                    yield Foreign(time.time(), self.pod.uid, f"{part} are not as they were: {different}")
            lost = set(self._before["addresses"]) - set(self._after["addresses"])
            for address in lost:
                if not is_eip_address(address):
                    yield Foreign(time.time(), self.pod.uid, f"{address} is gone")

    def _lines(self) -> Iterator[tuple[float, str, bool, str]]:
        for line in self._file.read_text(errors="replace").splitlines():
            found = _LINE.match(line)
            if found is None:
                raise ValueError(f"ip monitor says what is not understood, or lost messages: {line!r}")
            at = datetime.fromisoformat(found["at"]).timestamp()
            yield at, found["what"], bool(found["gone"]), found["rest"]

    def _snapshot(self) -> dict[str, list[str]]:
        addresses = json.loads(self._run("ip", "-j", "addr", "show"))
        routes = self._run("ip", "-4", "route", "show", "table", "all").splitlines()
        routes += self._run("ip", "-6", "route", "show", "table", "all").splitlines()
        return {
            "addresses": [info["local"] for link in addresses for info in link["addr_info"]],
            "routes": sorted(line.strip() for line in routes if not _OF_THE_KERNEL.search(line)),
            "rules": self._run("ip", "rule").splitlines(),
            "settings": self._run("sh", "-c", "grep . /proc/sys/net/ipv4/conf/net*/promote_secondaries").splitlines(),
        }

    def _run(self, *argv: str) -> str:
        return subprocess.run(self._inside(*argv), capture_output=True, text=True, check=True).stdout

    def _inside(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net={self._namespace}", "--", *argv]

    def _listening(self) -> bool:
        try:
            sockets = Path(f"/proc/{self._monitor.pid}/net/netlink").read_text().splitlines()[1:]
        except OSError:
            return False
        groups = {line.split()[3] for line in sockets if line.split()[1] == "0" and line.split()[2] != "0"}
        # Before nsenter has entered, this is the machine's own list, which may have listeners of its own.
        return self._entered() and any(int(group, 16) for group in groups)

    def _entered(self) -> bool:
        try:
            return Path(f"/proc/{self._monitor.pid}/ns/net").readlink() == self._namespace.readlink()
        except OSError:
            return False


class ApiWitness:
    """Follows the EIPs' history in a thread of its own."""

    def __init__(self, url: str) -> None:
        self.lives: dict[str, Life] = {}
        self.objects: dict[str, dict[str, Any]] = {}
        """By name, the EIPs there are."""
        self.events = 0
        self.version = 0
        """The resourceVersion of the last event."""
        self._address = urlsplit(url)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._connection: http.client.HTTPConnection | None = None
        self.failure: Exception | None = None

    def start(self) -> None:
        """Begin with an API that has no EIPs yet."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following.

        Raises:
            Exception: the history has a gap, so that no verdict can be based on it.
        """
        self._ended.set()
        if self._connection is not None and self._connection.sock is not None:
            self._connection.sock.close()
        self._thread.join(5)
        self.check()

    def check(self) -> None:
        """See that nothing was missed so far.

        Raises:
            Exception: the history has a gap, so that no verdict can be based on it.
        """
        if self.failure is not None:
            raise self.failure

    def get(self, path: str) -> Any:
        """What the API answers now."""
        connection = http.client.HTTPConnection(self._address.netloc, timeout=30)
        connection.request("GET", path)
        with connection.getresponse() as answer:
            return json.load(answer)

    def _follow(self) -> None:
        version = self.get(EIPS)["metadata"]["resourceVersion"]
        while not self._ended.is_set():
            try:
                version = self._watch(version)
            except Exception as error:
                if not self._ended.is_set():
                    self.failure = error
                return

    def _watch(self, version: str) -> str:
        self._connection = http.client.HTTPConnection(self._address.netloc)
        self._connection.request("GET", f"{EIPS}?watch=true&resourceVersion={version}&timeoutSeconds=100000")
        with self._connection.getresponse() as answer:
            while line := answer.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise OSError(f"the API's history is not whole: {event['object']}")
                self._take(event["type"], event["object"], time.time())
                version = event["object"]["metadata"]["resourceVersion"]
        return version

    def _take(self, kind: str, item: dict[str, Any], at: float) -> None:
        metadata, spec = item["metadata"], item["spec"]
        self.events += 1
        self.version = int(metadata["resourceVersion"])
        life = self.lives.setdefault(
            metadata["uid"], Life(metadata["uid"], metadata["name"], spec["natGwDp"], created=at)
        )
        address = spec.get("v4ip") or (item.get("status") or {}).get("ip")
        if address and life.address is None:
            life.address, life.visible = address, at
        if kind == "DELETED":
            life.gone = at
            self.objects.pop(metadata["name"], None)
        else:
            self.objects[metadata["name"]] = item


def additions(records: Path) -> Iterator[Addition]:
    """Kube-OVN's `eip-add`, from the controller's own record; one that it did not live to see the end of, too."""
    started: dict[tuple[str, str], dict[str, Any]] = {}
    for line in records.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            continue
        record = json.loads(line)
        key = record["uid"], record["pod_uid"]
        if record["step"] == "eip_add_started":
            if key in started:
                yield from _unended(started[key])
            started[key] = record
        elif record["step"] in ("eip_add_done", "eip_add_failed") and key in started:
            begun = started.pop(key)
            for address in record["addresses"]:
                yield Addition(begun["time"], record["time"], record["pod_uid"], address, record["uid"])
    for begun in started.values():
        yield from _unended(begun)


def _unended(begun: dict[str, Any]) -> Iterator[Addition]:
    """The command lives on in the pod when the controller dies."""
    for address in begun["addresses"]:
        yield Addition(begun["time"], begun["time"] + COMMAND_SECONDS, begun["pod_uid"], address, begun["uid"])


def place(lives: dict[str, Life], all_additions: Iterable[Addition]) -> None:
    """Note where and when each EIP's address was put on, and the address of those whose object never named it."""
    for addition in all_additions:
        life = lives[addition.uid]
        life.address = life.address or addition.address
        if addition.address == life.address:
            life.placed.setdefault(addition.pod, addition.done)


def acts(directory: Path) -> list[Act]:
    """What the workers' wrapper noted (`tests.chaos.product`)."""
    found: list[Act] = []
    for file in directory.glob("acts-*.jsonl"):
        # One round may change a pod twice: it takes away, and puts back.
        rounds: dict[int, list[Act]] = {}
        for line in file.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                continue
            note = json.loads(line)
            number, at = note["act"], note["at"]
            match note["what"]:
                case "opened":
                    rounds[number] = [Act(note["process"], note["pod"], at)]
                case "began" if rounds[number][-1].began is None:
                    rounds[number][-1].began = at
                case "began":
                    first = rounds[number][0]
                    rounds[number].append(Act(first.process, first.pod, first.opened, at))
                case "ended":
                    rounds[number][-1].ended = at
                case "closed":
                    for act in rounds[number]:
                        act.closed = at
        found += [act for of_round in rounds.values() for act in of_round]
    return found


def works(redis: Redis, prefix: str = "eip-reclaimer", queue: str = "eip-reclaimer") -> list[Work]:
    """Every piece of work that the queue's own records tell of."""
    failed = {bytes(job).decode() for job in redis.zrange(f"rq:failed:{queue}", 0, -1)}  # type: ignore[arg-type]
    found = []
    for key in redis.scan_iter(f"{prefix}:record:*", count=1000):
        work_id = key.decode().removeprefix(f"{prefix}:record:")
        payload = json.loads(redis.hget(key, "payload") or b"{}")
        events = [json.loads(line) for line in redis.lrange(f"{prefix}:trace:{work_id}", 0, -1)]
        ended = [event for event in events if event["event"] == "outcome"]
        reasons = [str(event.get("reason")) for event in events if event["event"] == "failed"]
        found.append(
            Work(
                id=work_id,
                uid=payload.get("uid"),
                gateway=str(payload.get("gateway")),
                seen=float(payload.get("seen_at") or 0),
                reason=str(payload.get("reason")),
                outcomes=[event["outcome"] for event in ended],
                reclaimed_at=[event["at"] for event in ended if event["outcome"] == "reclaimed"],
                failed=(reasons or ["without a reason"])[-1] if work_id in failed else None,
                pending=not ended and work_id not in failed,
            )
        )
    return found


def depth(redis: Redis, queue: str = "eip-reclaimer") -> dict[str, int]:
    """How many jobs wait, run, are to be tried again, and failed."""
    with redis.pipeline() as pipe:
        pipe.llen(f"rq:queue:{queue}")
        for registry in ("wip", "scheduled", "failed"):
            pipe.zcard(f"rq:{registry}:{queue}")
        queued, started, scheduled, failed = pipe.execute()
    return {"queued": queued, "started": started, "scheduled": scheduled, "failed": failed}


def outcomes(found: Iterable[Work]) -> dict[str, int]:
    """How often each outcome was recorded."""
    counts: dict[str, int] = defaultdict(int)
    for work in found:
        for outcome in work.outcomes:
            counts[outcome] += 1
    return dict(sorted(counts.items()))

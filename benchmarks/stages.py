"""Where a worker's time goes, by what it waits for; the rest is its own Python and RQ's."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.client import Pipeline

from shared.kube.api import KubeApi
from workers.gateways.exec import ExecGateway
from workers.gateways.netlink import NetlinkGateway
from workers.gateways.podexec import PodExec

PLACES: dict[str, tuple[tuple[type, str], ...]] = {
    "redis": ((Redis, "execute_command"), (Pipeline, "execute"), (Pipeline, "immediate_execute_command")),
    "kubernetes api": ((KubeApi, "_request"), (KubeApi, "_object")),
    "gateway: read": ((NetlinkGateway, "read"), (ExecGateway, "read")),
    "gateway: change": ((NetlinkGateway, "carry_out"), (ExecGateway, "carry_out")),
    "gateway: open": ((PodExec, "__init__"),),
}


class Stages:
    """Times the calls that lead out of the process, from now on."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._inside = threading.local()
        for stage, methods in PLACES.items():
            for owner, name in methods:
                setattr(owner, name, self._timed(stage, getattr(owner, name)))

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            # What is called by what is timed already counts there, as a fence does in a change.
            if getattr(self._inside, "stage", None):
                return function(*args, **kwargs)
            self._inside.stage = stage
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[stage] += time.perf_counter() - began
                self.calls[stage] += 1
                self._inside.stage = None

        return timed

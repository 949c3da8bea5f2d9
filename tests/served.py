"""Processes of the product that tell their metrics and health over HTTP, as a test sees them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from prometheus_client.parser import text_string_to_metric_families

from sandbox.processes import Process
from sandbox.redis_server import free_port
from tests.conftest import variables
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

FLIP_SECONDS = 30.0
"""Within that time of its cause or its end, readiness has to follow."""


@dataclass(frozen=True)
class Answer:
    """What a path answered; `code` 0 when nothing did."""

    code: int
    text: str
    content_type: str = ""

    @property
    def problems(self) -> str:
        """Those that a health endpoint told, in one line."""
        return "; ".join(self.details.get("problems", ["no answer"]))

    @property
    def details(self) -> dict[str, Any]:
        """The decoded body; empty where it is none."""
        return json.loads(self.text) if self.content_type == "application/json" else {}


def ask(port: int, path: str, method: str = "GET", accept: str = "") -> Answer:
    """Ask what listens on a port of the loopback."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method, headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return Answer(answer.status, answer.read().decode(), answer.headers["Content-Type"])
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read().decode(), error.headers["Content-Type"])
    except OSError:
        return Answer(0, "")


class Served(Process):
    """`eip-reclaimer producer` or `worker`, with `settings` beside the address where it is asked."""

    def __init__(self, part: str, directory: Path, **settings: Any) -> None:
        self.port = free_port()
        # No audits but those a test asks for: they take over what else is pending on a gateway.
        ours = {"http": f"127.0.0.1:{self.port}", "log_format": "json", "audit_interval": 0}
        environment = variables(**{**ours, **settings})
        super().__init__(part, directory / f"{part}.log", "cli", part, env=environment)

    def __enter__(self) -> Self:
        return self

    def ask(self, path: str) -> Answer:
        """Ask it."""
        return ask(self.port, path)

    @property
    def readiness(self) -> Answer:
        """What /readyz answers now."""
        return self.ask("/readyz")

    def becomes_ready(self, seconds: float = FLIP_SECONDS) -> None:
        """Wait until it is ready."""
        try:
            eventually(lambda: self.readiness.code == 200, "it to be ready", seconds)
        except AssertionError:
            raise AssertionError(f"{self.name} is not ready: {self.readiness.problems}\n{self.last_words()}") from None

    def becomes_unready(self, seconds: float = FLIP_SECONDS) -> str:
        """Wait until it says that it is not ready; why."""
        return eventually(
            lambda: answer.problems if (answer := self.readiness).code == 503 else "",
            f"the {self.name} to be not ready",
            seconds,
        )

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Every sample it exposes now, by its name and labels."""
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.ask("/metrics").text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """One sample; the name without our prefix."""
        return self.samples()[f"eip_reclaimer_{name}", tuple(sorted(labels.items()))]

    def lines(self) -> list[dict[str, Any]]:
        """Its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

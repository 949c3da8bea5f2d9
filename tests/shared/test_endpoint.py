"""The HTTP endpoint: what it answers, and that nobody who asks can hold it up."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from shared import endpoint
from shared.endpoint import CannotListenError, Pulse, Report, serving
from shared.settings import load_settings
from tests.served import ask
from tests.waiting import eventually


class Pretended:
    def __init__(self) -> None:
        self.problems: list[str] = []

    def alive(self) -> Report:
        return Report(self.problems)

    def ready(self) -> Report:
        return Report(self.problems, {"beside": {"a": 1}})


@pytest.fixture
def health() -> Pretended:
    return Pretended()


@pytest.fixture
def port(health: Pretended) -> Iterator[int]:
    registry = CollectorRegistry()
    Counter("asked", "How often.", registry=registry).inc(3)
    with serving(load_settings(http="127.0.0.1:0"), registry, health) as place:
        assert place is not None
        yield place[1]


def test_metrics_are_told_in_both_formats(port: int) -> None:
    assert "asked_total 3.0" in ask(port, "/metrics").text
    accept = "application/openmetrics-text; version=1.0.0"
    answer = ask(port, "/metrics", accept=accept)
    assert answer.content_type.startswith("application/openmetrics-text")
    (family,) = text_string_to_metric_families(answer.text)  # type: ignore[no-untyped-call]
    assert family.name == "asked"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_told_by_status_and_in_words(port: int, health: Pretended, path: str) -> None:
    assert (ask(port, path).code, ask(port, path).details["problems"]) == (200, [])
    health.problems = ["Redis does not answer"]
    answer = ask(port, path)
    assert (answer.code, answer.details["problems"]) == (503, ["Redis does not answer"])
    assert ask(port, "/readyz").details["beside"] == {"a": 1}


def test_a_head_has_no_body(port: int) -> None:
    whole, head = ask(port, "/metrics"), ask(port, "/metrics", "HEAD")
    assert (head.code, head.text, head.content_type) == (200, "", whole.content_type)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_any_other_method_is_refused(port: int, method: str) -> None:
    assert ask(port, "/metrics", method).code == 501


@pytest.mark.parametrize("path", ["/", "/metrics/", "/../etc/passwd", "/healthz%00"])
def test_nothing_else_is_there(port: int, path: str) -> None:
    assert ask(port, path).code == 404


def test_what_goes_wrong_while_answering_is_a_500(
    port: int, health: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Report:
        raise RuntimeError("secret")

    monkeypatch.setattr(health, "ready", broken)
    answer = ask(port, "/readyz")
    assert (answer.code, answer.text) == (500, "see the log\n")
    assert ask(port, "/healthz").code == 200


def test_clients_that_say_nothing_or_drip_hold_nobody_up_for_long(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "REQUEST_SECONDS", 2.0)
    before = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(3 * endpoint.MOST_CONNECTIONS)]
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.2):
            for connection in silent:
                try:
                    connection.send(b"G")
                except OSError:
                    continue

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        time.sleep(0.5)
        assert threading.active_count() - before <= endpoint.MOST_CONNECTIONS + 1
        eventually(lambda: ask(port, "/healthz").code == 200, "an answer beside them", 10)
    finally:
        stop.set()
        dripping.join()
        for connection in silent:
            connection.close()


def test_a_client_that_goes_away_is_no_error(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    for request in (b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\n\r\n", b"\x16\x03\x01 no http\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.send(request)
    assert ask(port, "/healthz").code == 200
    assert "Traceback" not in capfd.readouterr().err


def test_an_ipv6_address_is_listened_on(health: Pretended) -> None:
    with serving(load_settings(http="[::1]:0"), CollectorRegistry(), health) as place:
        assert place is not None
        connection = http.client.HTTPConnection("::1", place[1], timeout=5)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("192.0.2.1:9464", "Cannot assign requested address"),
        ("no-such-host.invalid:9464", "port 9464 for EIP_RECLAIMER_HTTP: "),
    ],
)
def test_a_place_that_cannot_be_had_is_told(health: Pretended, place: str, why: str) -> None:
    with (
        pytest.raises(CannotListenError, match=why),
        serving(load_settings(http=place), CollectorRegistry(), health),
    ):
        pass


def test_nothing_is_served_without_an_address(health: Pretended) -> None:
    with serving(load_settings(), CollectorRegistry(), health) as place:
        assert place is None


def test_a_pulse_grows_old_until_it_beats() -> None:
    pulse = Pulse()
    time.sleep(0.05)
    assert 0.05 <= pulse.age < 5
    pulse.beat()
    assert pulse.age < 0.05

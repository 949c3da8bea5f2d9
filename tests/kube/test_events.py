"""Kubernetes Events, on the sandbox's API and on a real one: accepted, counted instead of repeated, never in the way."""

from __future__ import annotations

import time
from typing import Any

import pytest

from shared.kube import events
from shared.kube.api import KubeApi
from shared.kube.events import (
    BURST,
    EventRecorder,
    Regarded,
    TokenBucket,
    cluster_object,
    eip_object,
    gateway_object,
)
from shared.metrics import KUBERNETES_EVENTS
from shared.settings import load_settings
from tests.forwarder import Forwarder
from tests.kube import surface
from tests.waiting import eventually

PATH = "/api/v1/namespaces/default/events"
GATEWAYS = "/apis/kubeovn.io/v1/vpc-nat-gateways"


@pytest.fixture
def api(kube_api: surface.KubeApi) -> KubeApi:
    return KubeApi(load_settings(kubeconfig=kube_api.kubeconfig_path))


@pytest.fixture
def recorder(api: KubeApi) -> EventRecorder:
    return EventRecorder(api, "eip-reclaimer-worker", "worker-1")


def stored(kube_api: surface.KubeApi, **fields: str) -> list[dict[str, Any]]:
    """The Events about an object, as `kubectl describe` asks for them."""
    selector = ",".join(f"involvedObject.{field}={value}" for field, value in fields.items())
    answer = kube_api.ask("GET", "/api/v1/events", fieldSelector=selector)
    assert answer.code == 200, answer.body
    return list(answer.body["items"])


def counted(result: str) -> float:
    return float(KUBERNETES_EVENTS.labels(result)._value.get())


def test_an_event_about_a_gateway_is_found_by_describe(recorder: EventRecorder, kube_api: surface.KubeApi) -> None:
    gateway = kube_api.ask(
        "POST", GATEWAYS, {"apiVersion": "kubeovn.io/v1", "kind": "VpcNatGateway", "metadata": {"name": "gw1"}}
    ).body
    recorder.tell("Reclaimed", "10.1.69.205 taken off", gateway_object("gw1"), warning=False)
    uid = gateway["metadata"]["uid"]
    (event,) = eventually(lambda: stored(kube_api, kind="VpcNatGateway", name="gw1", uid=uid), "the event")
    assert event["involvedObject"]["apiVersion"] == "kubeovn.io/v1"
    assert (event["type"], event["reason"], event["count"]) == ("Normal", "Reclaimed", 1)
    assert event["message"] == "10.1.69.205 taken off"
    assert event["metadata"]["namespace"] == "default"
    assert event["source"]["component"] == event["reportingComponent"] == "eip-reclaimer-worker"
    assert event["firstTimestamp"] == event["lastTimestamp"]


@pytest.mark.parametrize(
    ("reason", "regarded", "warning"),
    [
        ("Restored", eip_object("eip-1", "11111111-2222-3333-4444-555555555555"), True),
        ("ReclaimFailed", gateway_object("gone"), True),
        ("BrakeEngaged", cluster_object("11111111-2222-3333-4444-555555555555"), True),
        ("BrakeReleased", cluster_object("11111111-2222-3333-4444-555555555555"), False),
        ("Reclaimed", eip_object("a" * 253, "11111111-2222-3333-4444-555555555555"), False),
    ],
)
def test_every_kind_of_event_is_accepted(
    recorder: EventRecorder, kube_api: surface.KubeApi, reason: Any, regarded: Regarded, warning: bool
) -> None:
    recorder.tell(reason, "why" * 600, regarded, warning=warning)
    (event,) = eventually(lambda: stored(kube_api, kind=regarded.kind, name=regarded.name), "the event")
    assert (event["reason"], event["type"]) == (reason, "Warning" if warning else "Normal")
    assert event["involvedObject"].get("uid") == regarded.uid
    assert len(event["message"].encode()) <= 1024


def test_the_same_again_raises_the_count_of_the_event_that_is_there(
    recorder: EventRecorder, kube_api: surface.KubeApi
) -> None:
    for number in range(3):
        recorder.tell("Reclaimed", f"10.1.69.{number} taken off", gateway_object("gw1"), warning=False)
    recorder.flush()
    (event,) = stored(kube_api, name="gw1")
    assert (event["count"], event["message"]) == (3, "10.1.69.2 taken off")
    recorder.tell("Restored", "another reason", gateway_object("gw1"), warning=True)
    recorder.flush()
    assert len(stored(kube_api, name="gw1")) == 2


def test_an_event_that_the_api_forgot_is_made_anew(recorder: EventRecorder, kube_api: surface.KubeApi) -> None:
    recorder.tell("Reclaimed", "first", gateway_object("gw1"), warning=False)
    recorder.flush()
    (event,) = stored(kube_api, name="gw1")
    kube_api.ask("DELETE", f"{PATH}/{event['metadata']['name']}")
    recorder.tell("Reclaimed", "second", gateway_object("gw1"), warning=False)
    recorder.flush()
    (event,) = stored(kube_api, name="gw1")
    assert (event["count"], event["message"]) == (1, "second")


def test_events_of_several_processes_do_not_collide(api: KubeApi, kube_api: surface.KubeApi) -> None:
    recorders = [EventRecorder(api, "eip-reclaimer-worker", "same-name") for _ in range(4)]
    for recorder in recorders:
        recorder.tell("Reclaimed", "each its own", gateway_object("gw1"), warning=False)
    for recorder in recorders:
        recorder.flush()
    assert len(stored(kube_api, name="gw1")) == 4


def test_a_storm_is_cut_off_and_the_next_update_tells_of_all(
    recorder: EventRecorder, kube_api: surface.KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = counted("throttled")
    for number in range(BURST + 40):
        recorder.tell("Reclaimed", "one", gateway_object(f"gw-{number}"), warning=False)
    eventually(lambda: counted("throttled") == before + 40, "the rest to be held back")
    assert len(kube_api.ask("GET", PATH).body["items"]) == BURST
    for _ in range(7):
        recorder.tell("Reclaimed", "again", gateway_object("gw-0"), warning=False)
    recorder.flush()
    monkeypatch.setattr(recorder, "_bucket", TokenBucket(1, 1000))
    recorder.tell("Reclaimed", "last", gateway_object("gw-0"), warning=False)
    recorder.flush()
    (event,) = stored(kube_api, name="gw-0")
    assert (event["count"], event["message"]) == (9, "last")


def test_whoever_tells_is_never_held_up_nor_failed(kube_api: surface.KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(kube_api.url.rsplit(":", 1)[1])
    with Forwarder(port) as forwarder:
        text = kube_api.kubeconfig_path.read_text()
        kube_api.kubeconfig_path.write_text(text.replace(f":{port}", f":{forwarder.port}"))
        recorder = EventRecorder(KubeApi(load_settings(kubeconfig=kube_api.kubeconfig_path)), "worker", "w1")
        forwarder.freeze(new=True)
        dropped = counted("dropped")
        began = time.monotonic()
        for number in range(events.MOST_WAITING + 50):
            recorder.tell("Reclaimed", "one", gateway_object(f"gw-{number}"), warning=False)
        assert time.monotonic() - began < 2
        assert counted("dropped") - dropped >= 49
        monkeypatch.setattr(events, "FLUSH_SECONDS", 0.3)
        began = time.monotonic()
        recorder.flush()
        assert time.monotonic() - began < 2


@pytest.mark.envtest
@pytest.mark.parametrize("kube_api", ["real"], indirect=True)
def test_a_right_that_is_missing_is_told_once_with_what_to_grant(
    kube_api: surface.KubeApi, capfd: pytest.CaptureFixture[str]
) -> None:
    text = kube_api.kubeconfig_path.read_text()
    kube_api.kubeconfig_path.write_text(text.replace(kube_api.token, "nobody-token"))
    recorder = EventRecorder(KubeApi(load_settings(kubeconfig=kube_api.kubeconfig_path)), "worker", "w1")
    failed = counted("failed")
    for number in range(5):
        recorder.tell("Reclaimed", "one", eip_object(f"eip-{number}", "11111111-2222"), warning=False)
    eventually(lambda: counted("failed") == failed + 5, "all to fail")
    told = "".join(capfd.readouterr())
    assert told.count("kubernetes events cannot be sent") == 1
    assert "grant create and patch of events in the namespace default" in told


def test_switched_off_nothing_is_sent(api: KubeApi, kube_api: surface.KubeApi) -> None:
    recorder = EventRecorder(api, "worker", "w1", enabled=False)
    recorder.tell("Reclaimed", "one", gateway_object("gw1"), warning=False)
    recorder.flush()
    assert stored(kube_api, name="gw1") == []


def test_a_bucket_lets_a_burst_through_and_then_a_trickle() -> None:
    now = 0.0
    bucket = TokenBucket(3, 10, lambda: now)
    assert [bucket.take() for _ in range(5)] == [True, True, True, False, False]
    now = 9.0
    assert not bucket.take()
    now = 10.0
    assert [bucket.take(), bucket.take()] == [True, False]
    now = 1000.0
    assert [bucket.take() for _ in range(5)] == [True, True, True, False, False]


def test_the_thread_that_sends_ends_when_idle_and_starts_again(
    recorder: EventRecorder, kube_api: surface.KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "IDLE_SECONDS", 0.05)
    for reason in ("Reclaimed", "Restored"):
        recorder.tell(reason, "one", gateway_object("gw1"), warning=False)
        recorder.flush()
        eventually(lambda: not recorder._sending, "the thread to end")
    assert len(stored(kube_api, name="gw1")) == 2

"""What a worker decides from data alone: guards, times of looks, waiting, classes of errors, pauses."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from redis import Redis
from rq.timeouts import JobTimeoutException

from shared import errors
from shared.keys import Keys
from shared.kube.objects import read_subnet
from shared.models import Release, Work, parse_work
from shared.settings import load_settings
from tests.payloads import release
from tests.shared.test_difference import eip
from workers.audits.comparison import Expected, compare
from workers.failures import backoff, classify
from workers.gateways.interface import Address, Snapshot
from workers.guards import why_protected
from workers.hold import Hold
from workers.intents import Intents
from workers.looks import next_look, not_before
from workers.owners import Owners

SUBNET = read_subnet(
    {
        "metadata": {"name": "external"},
        "spec": {"cidrBlock": "10.1.69.0/24", "gateway": "10.1.69.254", "excludeIps": ["10.1.69.1..10.1.69.199"]},
    }
)
BASE = ip_address("10.1.69.201")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.1.69.201", "the gateway pod's own address"),
        ("10.1.69.254", "the gateway of subnet external"),
        ("10.1.69.0", "the network address of subnet external"),
        ("10.1.69.255", "the broadcast address of subnet external"),
        ("10.1.69.77", "EIP_RECLAIMER_PROTECTED_ADDRESSES"),
        ("10.1.69.205", None),
        # Excluded from what is handed out at random, but an EIP may ask for it by name.
        ("10.1.69.5", None),
        ("10.9.9.9", None),
    ],
)
def test_what_is_never_taken_away(address: str, why: str | None) -> None:
    settings = load_settings(protected_addresses="10.1.69.77")
    told = why_protected(ip_address(address), own={BASE}, subnets=[SUBNET], settings=settings)
    assert told is None if why is None else told is not None and why in told


def snapshot(*places: str) -> Snapshot:
    addresses = []
    for place in places:
        interface, _, text = place.partition(" ")
        address, _, length = text.partition("/")
        addresses.append(Address(interface, ip_address(address), int(length)))
    return Snapshot(tuple(addresses))


def audited(*places: str, owned: tuple[str, ...] = ()) -> dict[str, str | None]:
    owners = Owners(dict.fromkeys(owned, "an EIP"))
    expected = Expected(owners, own={BASE}, subnets=[SUBNET])
    found = compare({"pod": snapshot(*places)}, expected, inside=("lo", "eth0"), settings=load_settings())
    return {ip: item.doubt for ip, item in found.unowned.items()}


def test_an_audit_proposes_what_kube_ovn_could_have_put_there() -> None:
    assert audited("net1 10.1.69.205/24", "net1 10.1.69.206/24", owned=("10.1.69.206",)) == {"10.1.69.205": None}


@pytest.mark.parametrize("place", ["eth0 10.1.69.205/24", "lo 10.1.69.205/24", "net1 10.9.9.9/24", "net1 fd00::5/64"])
def test_an_audit_does_not_look_at_what_is_not_of_an_external_subnet(place: str) -> None:
    assert audited(place) == {}


@pytest.mark.parametrize(
    ("place", "doubt"),
    [
        ("net1 10.1.69.201/24", "own address"),
        ("net1 10.1.69.254/24", "the gateway of"),
        ("net1 10.1.69.205/32", "its prefix length is 32"),
        ("net1 10.1.69.5/24", "excludes it"),
    ],
)
def test_an_audit_only_reports_what_it_doubts(place: str, doubt: str) -> None:
    (told,) = audited(place).values()
    assert told is not None
    assert doubt in told


def work(**fields: Any) -> Work:
    return parse_work(release(**fields))


def audit(reason: str) -> Work:
    common = {key: value for key, value in release().items() if key not in ("addresses", "subnet", "was_ready")}
    return parse_work({**common, "kind": "audit", "reason": reason})


def test_the_looks_at_what_was_never_ready() -> None:
    settings = load_settings(look_again_after=(10, 60))
    for each in (work(was_ready=False), audit("deleted"), audit("missing")):
        waits = [(not_before(each, settings, now), next_look(each, settings, now)) for now in (1000, 1010, 1060)]
        assert waits == [(10, 10), (None, 50), (None, None)]


def test_one_look_is_enough_at_what_was_ready_and_at_what_a_person_asks_for() -> None:
    settings = load_settings(look_again_after=(10, 60))
    for each in (work(), audit("requested")):
        assert not_before(each, settings, 1000) is next_look(each, settings, 1000) is None


def test_without_times_nothing_is_looked_at_again() -> None:
    settings = load_settings(look_again_after=())
    assert not_before(work(was_ready=False), settings, 1000) is None
    assert next_look(work(was_ready=False), settings, 1000) is None


@pytest.mark.server
def test_releases_wait_for_a_young_eip_and_not_for_an_old_one(redis: Redis, keys: Keys) -> None:
    hold = Hold(redis, keys, limit=30)
    young, old = eip("u1", created=time.time()), eip("u2", created=time.time() - 31)
    assert hold.asks_to_wait("gw1", [young, old]) == "EIP eip-u1 of this gateway has no address yet"
    assert hold.asks_to_wait("gw1", [old]) is None
    assert hold.asks_to_wait("gw1", []) is None


@pytest.mark.server
def test_once_releases_went_on_they_wait_as_long_again(redis: Redis, keys: Keys) -> None:
    hold = Hold(redis, keys, limit=0.3)
    assert hold.asks_to_wait("gw1", [eip("u1", created=time.time())])
    time.sleep(0.2)
    assert hold.asks_to_wait("gw1", []) is None
    with redis.pipeline() as pipe:
        hold.over(pipe, "gw1")
        pipe.execute()
    assert hold.asks_to_wait("gw1", [eip("u2", created=time.time())])
    time.sleep(0.2)
    assert hold.asks_to_wait("gw1", [eip("u2", created=time.time())])


@pytest.mark.server
def test_releases_wait_no_longer_than_the_limit_whoever_comes(redis: Redis, keys: Keys) -> None:
    hold = Hold(redis, keys, limit=0.3)
    began = time.time()
    number = 0
    while hold.asks_to_wait("gw1", [replace(eip(f"u{number}"), created=time.time())]):
        number += 1
        time.sleep(0.02)
    assert number > 2
    assert time.time() - began >= 0.3


@pytest.mark.server
def test_an_intent_is_found_by_its_pair_and_its_work(redis: Redis, keys: Keys) -> None:
    intents = Intents(redis, keys, lifetime=60)
    (place,) = snapshot("net1 10.1.69.205/24").addresses
    with redis.pipeline() as pipe:
        intents.record(pipe, "gw1", {"release-u1": [place]})
        pipe.execute()
    found = intents.of("gw1", place.ip)
    assert found is not None
    assert (found.interface, found.prefix_length, found.work) == ("net1", 24, "release-u1")
    assert intents.of("gw2", place.ip) is None
    mine, other = work(), work(id="release-u2", uid="u2")

    def left(asked: Work) -> bool:
        assert isinstance(asked, Release)
        with redis.pipeline() as pipe:
            intents.ask_for(pipe, keys, asked)
            return bool(intents.left_by(asked, pipe.execute()[0]))

    assert left(mine)
    assert not left(other)
    assert not left(work(gateway="gw2"))


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (errors.TransientError("x"), True),
        (errors.GatewayUnreachableError("x"), True),
        (errors.VerificationError("x"), True),
        (errors.LockLostError("x"), True),
        (errors.PermanentError("x"), False),
        (errors.ProtectedAddressError("x"), False),
        (errors.InvalidPayloadError("x"), False),
        (JobTimeoutException(), True),
        (ZeroDivisionError("x"), True),
        (errors.WrongClusterError("x"), True),
    ],
)
def test_errors_are_of_two_kinds(error: Exception, transient: bool) -> None:
    assert classify(error).transient is transient


def test_what_nobody_foresaw_is_told_with_its_type() -> None:
    assert classify(ZeroDivisionError("by zero")).reason.startswith("unexpected ZeroDivisionError: by zero.")
    assert "EIP_RECLAIMER_JOB_TIMEOUT" in classify(JobTimeoutException()).reason


def test_pauses_grow_to_a_ceiling_and_half_of_each_is_jitter() -> None:
    settings = load_settings(retry_base=2, retry_ceiling=60)
    for attempt, ceiling in [(1, 2), (2, 4), (3, 8), (5, 32), (6, 60), (1000, 60)]:
        pauses = [backoff(attempt, settings) for _ in range(200)]
        assert min(pauses) >= ceiling / 2
        assert max(pauses) <= ceiling
        assert max(pauses) - min(pauses) > ceiling / 4

"""Short work goes first, long rounds give way: not to themselves, not for long, and not longer than they have to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from sandbox.cluster import SandboxCluster
from sandbox.segments import run_batch
from shared.models import Outcome, Work, parse_work
from shared.queue import WorkQueue
from shared.settings import Settings
from tests.conftest import GATEWAY, Product
from tests.conftest import release as released
from tests.payloads import release
from tests.pending import leave_pending
from workers import precedence
from workers.answers import Result
from workers.cluster import Cluster
from workers.gateways.netlink import NetlinkGateway
from workers.precedence import LONG_ROUND
from workers.reclaimer import Reclaimer
from workers.round import Round

LONG = 30.0
"""Seconds; nothing here waits for so long, unless it is wrong."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precedence, "LONGEST_CLAIM", LONG)
    monkeypatch.setattr(precedence, "STOP_PER_PIECE", LONG / LONG_ROUND)


@contextmanager
def going_first() -> Iterator[threading.Event]:
    """Another thread that goes first, until the event is set."""
    claims, done = threading.Event(), threading.Event()

    def short() -> None:
        with precedence.first():
            claims.set()
            done.wait(LONG)

    thread = threading.Thread(target=short)
    thread.start()
    assert claims.wait(LONG)
    try:
        yield done
    finally:
        done.set()
        thread.join(LONG)


def stops() -> float:
    """How long this thread stops to give way, seconds."""
    began = time.monotonic()
    precedence.give_way()
    return time.monotonic() - began


def test_a_long_round_stops_until_the_short_work_is_done() -> None:
    precedence.last(LONG_ROUND)
    with going_first() as done:
        threading.Timer(0.3, done.set).start()
        assert 0.2 < stops() < LONG / 2
        assert stops() < 0.2


def test_it_goes_on_as_soon_as_the_work_turns_out_to_be_long() -> None:
    turned_out, claims, end = threading.Event(), threading.Event(), threading.Event()

    def long_after_all() -> None:
        with precedence.first():
            claims.set()
            turned_out.wait(LONG)
            precedence.last(LONG_ROUND)
            end.wait(LONG)

    thread = threading.Thread(target=long_after_all)
    thread.start()
    try:
        assert claims.wait(LONG)
        precedence.last(LONG_ROUND)
        threading.Timer(0.3, turned_out.set).start()
        assert 0.2 < stops() < LONG / 2
    finally:
        turned_out.set()
        end.set()
        thread.join(LONG)


def test_work_that_claims_to_be_short_for_too_long_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precedence, "LONGEST_CLAIM", 0.3)
    precedence.last(LONG_ROUND)
    with going_first():
        assert 0.1 < stops() < LONG / 2
        assert stops() < 0.1


def test_a_round_stops_for_so_long_in_all_and_the_next_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precedence, "STOP_PER_PIECE", 0.3 / LONG_ROUND)
    with going_first():
        for _ in range(2):
            precedence.last(LONG_ROUND)
            assert 0.2 < stops() < LONG / 2
            assert stops() < 0.1


def test_short_work_gives_way_to_nobody() -> None:
    with going_first(), precedence.first():
        assert stops() < 0.2


def test_a_job_does_not_give_way_for_what_its_thread_did_before() -> None:
    with precedence.first():
        precedence.last(LONG_ROUND)
    with going_first(), precedence.first():
        assert stops() < 0.2


def test_nobody_gives_way_to_work_that_has_failed() -> None:
    with pytest.raises(ValueError, match="for the test"), precedence.first():
        raise ValueError("for the test")
    precedence.last(LONG_ROUND)
    assert stops() < 0.2


def test_among_gives_way_before_each_piece() -> None:
    precedence.last(LONG_ROUND)
    pieces = precedence.among(iter([1, 2, 3]))
    assert next(pieces) == 1
    for piece in (2, 3):
        with going_first() as done:
            threading.Timer(0.3, done.set).start()
            began = time.monotonic()
            assert next(pieces) == piece
            assert 0.2 < time.monotonic() - began < LONG / 2
    assert list(pieces) == []


def test_a_round_that_is_not_long_goes_on_going_first() -> None:
    with precedence.first():
        precedence.last(LONG_ROUND - 1)
        assert threading.get_ident() in precedence._claims
        with going_first():
            assert stops() < 0.2
        precedence.last(LONG_ROUND)
        assert threading.get_ident() not in precedence._claims


def test_what_is_not_to_be_held_up_gives_way_to_nobody() -> None:
    precedence.last(LONG_ROUND)
    with going_first() as done:
        with precedence.at_once():
            assert stops() < 0.2
        threading.Timer(0.3, done.set).start()
        assert 0.2 < stops() < LONG / 2


class Noting:
    """A round that does nothing but note whether it would give way."""

    looks_at_once = True

    def __init__(self) -> None:
        self.gives_way: list[bool] = []

    def work_off(self, _gateway: str, works: list[Work], _fence: Callable[[], None], *_rest: Any) -> dict[str, Result]:
        with going_first() as done:
            threading.Timer(0.3, done.set).start()
            self.gives_way.append(stops() > 0.2)
        return {work.id: Result(Outcome.ALREADY_ABSENT) for work in works}


@pytest.mark.server
@pytest.mark.parametrize(("others", "gives_way"), [(0, False), (LONG_ROUND - 2, False), (LONG_ROUND - 1, True)])
def test_a_gateway_with_many_pieces_pending_gives_way(
    work_queue: WorkQueue, settings: Settings, others: int, gives_way: bool
) -> None:
    work = parse_work(release())
    work_queue.publish_now([work], "published")
    for number in range(others):
        leave_pending(work_queue, parse_work(release(id=f"release-{number}", addresses=[f"192.0.2.{number}"])))
    noting = Noting()
    reclaimer = Reclaimer(work_queue, cast("Round", noting), settings, work.cluster, "w1")
    reclaimer.run(work)
    assert noting.gives_way == [gives_way]


@pytest.mark.kernel
@pytest.mark.server
def test_where_a_round_gives_way_and_where_it_does_not(
    cluster: SandboxCluster, make_product: Callable[..., Product], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody owns is taken away right after that was asked, and asked about again right after that."""
    product = make_product(driver="netlink", threads=1)
    cluster.add_gateway(GATEWAY)
    addresses = [f"10.1.69.{host}" for host in range(205, 205 + LONG_ROUND)]
    run_batch(cluster.pod(GATEWAY).namespace, [f"addr add {address}/24 dev net1" for address in addresses])
    told: list[str] = []

    def may_stop() -> None:
        told.extend(["stop"] * (precedence._mine.stops_left > 0))

    def tell(of: type, name: str, event: str) -> None:
        told_of = getattr(of, name)

        def telling(*args: Any, **kwargs: Any) -> Any:
            try:
                return told_of(*args, **kwargs)
            finally:
                told.append(event)

        monkeypatch.setattr(of, name, telling)

    monkeypatch.setattr(precedence, "give_way", may_stop)
    tell(Cluster, "owners", "owners")
    tell(NetlinkGateway, "_change", "deleted")
    product.work_queue.publish_now([released(product, GATEWAY, address) for address in addresses], "published")
    assert product.finish(addresses[-1]) == ["reclaimed"]
    asked = [number for number, event in enumerate(told) if event == "owners"]
    assert len(asked) == 2
    assert told[asked[0] : asked[1] + 1] == ["owners", "deleted", "owners"]
    assert told[: asked[0]].count("stop") > LONG_ROUND
    # The records.
    assert told[asked[1] :].count("stop") > LONG_ROUND


@pytest.mark.kernel
@pytest.mark.server
@pytest.mark.parametrize("driver", ["netlink", "exec"])
def test_a_job_goes_first_where_it_does_not_wait_for_its_looks(
    cluster: SandboxCluster, make_product: Callable[..., Product], monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    product = make_product(driver=driver)
    cluster.add_gateway(GATEWAY)
    claims: list[bool] = []
    work_off = Round.work_off

    def noting(self: Round, *args: Any) -> Any:
        claims.append(threading.get_ident() in precedence._claims)
        return work_off(self, *args)

    monkeypatch.setattr(Round, "work_off", noting)
    product.work_queue.publish_now([released(product, GATEWAY, "10.1.69.205")], "published")
    assert product.finish("10.1.69.205") == ["already_absent"]
    assert claims == [driver == "netlink"]
    assert not precedence._claims

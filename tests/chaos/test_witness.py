from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.netns import NetworkNamespace
from tests.chaos.evidence import FOREVER, Act, Addition, Change, Life
from tests.chaos.witness import PodWitness, acts, additions, is_eip_address, place
from tests.gateways.conftest import build_interfaces
from tests.waiting import eventually

ADDRESS, OTHER = "10.64.1.1", "10.64.0.9"
FURNITURE = (
    "addr add 192.0.2.7/24 dev net1",
    "addr add 10.64.200.7/16 dev net1",
    "route add 198.51.100.0/24 via 10.64.255.254 dev net1 onlink proto 99",
    "rule add pref 1077 from 198.51.100.7 lookup 77",
)
StartWitness = Callable[[], PodWitness]


# What the workers noted.


def write(file: Path, *notes: dict[str, Any], torn: str = "") -> None:
    file.write_text("".join(json.dumps(note) + "\n" for note in notes) + torn)


def note(number: int, what: str, at: float, **more: Any) -> dict[str, Any]:
    return {"act": number, "what": what, "at": at, **more}


def opened(number: int, at: float, *, process: int = 7, pod: str = "pod-1") -> dict[str, Any]:
    return note(number, "opened", at, pod=pod, process=process)


def test_a_round_that_changed_a_pod_is_an_act_and_so_is_one_that_only_looked(tmp_path: Path) -> None:
    changed = [opened(1, 10), note(1, "began", 11), note(1, "ended", 12), note(1, "closed", 13)]
    write(tmp_path / "acts-7.jsonl", *changed, opened(2, 20, pod="pod-2"), note(2, "closed", 21))
    assert acts(tmp_path) == [Act(7, "pod-1", 10, 11, 12, 13), Act(7, "pod-2", 20, None, FOREVER, 21)]


def test_a_round_that_changes_a_pod_twice_is_two_acts_of_one_opening(tmp_path: Path) -> None:
    took = [opened(1, 10), note(1, "began", 11), note(1, "ended", 12)]
    write(tmp_path / "acts-7.jsonl", *took, note(1, "began", 13), note(1, "ended", 14), note(1, "closed", 15))
    assert acts(tmp_path) == [Act(7, "pod-1", 10, 11, 12, 15), Act(7, "pod-1", 10, 13, 14, 15)]


def test_rounds_on_two_pods_at_once_are_kept_apart(tmp_path: Path) -> None:
    first, second = [opened(1, 10), note(1, "began", 12)], [opened(2, 11, pod="pod-2"), note(2, "began", 13)]
    ends = [note(2, "ended", 14), note(1, "ended", 15), note(2, "closed", 16), note(1, "closed", 17)]
    write(tmp_path / "acts-7.jsonl", *first, *second, *ends)
    assert acts(tmp_path) == [Act(7, "pod-1", 10, 12, 15, 17), Act(7, "pod-2", 11, 13, 14, 16)]


def test_the_act_of_a_killed_worker_stays_open(tmp_path: Path) -> None:
    write(tmp_path / "acts-7.jsonl", opened(1, 10), note(1, "began", 11))
    assert acts(tmp_path) == [Act(7, "pod-1", 10, 11, FOREVER, FOREVER)]


def test_a_note_that_a_killed_worker_did_not_finish_is_no_note(tmp_path: Path) -> None:
    write(tmp_path / "acts-7.jsonl", opened(1, 10), note(1, "began", 11), torn='{"act": 1, "what": "en')
    assert acts(tmp_path) == [Act(7, "pod-1", 10, 11, FOREVER, FOREVER)]


def test_each_worker_process_has_acts_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "acts-7.jsonl", opened(1, 10), note(1, "closed", 11))
    write(tmp_path / "acts-8.jsonl", opened(1, 20, process=8), note(1, "closed", 21))
    assert {(act.process, act.opened, act.closed) for act in acts(tmp_path)} == {(7, 10, 11), (8, 20, 21)}


# What the controller recorded.


def record(step: str, at: float, uid: str = "a", *addresses: str, pod: str = "pod-1") -> dict[str, Any]:
    return {"step": step, "time": at, "uid": uid, "pod_uid": pod, "addresses": addresses or (ADDRESS,)}


def test_an_addition_lasts_from_its_start_until_it_was_done_or_failed(tmp_path: Path) -> None:
    failed = [record("eip_add_started", 10), record("eip_add_failed", 11)]
    again = [record("eip_add_started", 12), record("eip_add_done", 13)]
    between = [record("allocated", 9), record("eip_del_started", 14), record("eip_del_done", 15)]
    write(tmp_path / "records", between[0], *failed, *again, *between[1:], torn='{"step": "eip_a')
    assert list(additions(tmp_path / "records")) == [
        Addition(10, 11, "pod-1", ADDRESS, "a"),
        Addition(12, 13, "pod-1", ADDRESS, "a"),
    ]


def test_additions_are_told_apart_by_eip_and_pod_and_have_one_entry_for_each_address(tmp_path: Path) -> None:
    starts = [record("eip_add_started", 10), record("eip_add_started", 11, pod="pod-2")]
    starts.append(record("eip_add_started", 12, "b", OTHER, "fd00::9"))
    ends = [record("eip_add_done", 13, "b", OTHER, "fd00::9"), record("eip_add_done", 14, pod="pod-2")]
    write(tmp_path / "records", *starts, *ends, record("eip_add_done", 15))
    assert list(additions(tmp_path / "records")) == [
        Addition(12, 13, "pod-1", OTHER, "b"),
        Addition(12, 13, "pod-1", "fd00::9", "b"),
        Addition(11, 14, "pod-2", ADDRESS, "a"),
        Addition(10, 15, "pod-1", ADDRESS, "a"),
    ]


def test_an_addition_goes_on_for_a_moment_when_the_controller_dies_in_it(tmp_path: Path) -> None:
    write(tmp_path / "records", record("eip_add_started", 10))
    assert list(additions(tmp_path / "records")) == [Addition(10, 12, "pod-1", ADDRESS, "a")]


def test_an_eip_is_placed_on_a_pod_when_it_was_put_there_first() -> None:
    life = Life("a", "eip-a", "gw-1", created=9, address=ADDRESS, visible=14)
    first, second = Addition(10, 11, "pod-1", ADDRESS, "a"), Addition(12, 13, "pod-2", ADDRESS, "a")
    place({"a": life}, [first, second, Addition(15, 16, "pod-1", ADDRESS, "a")])
    assert life.placed == {"pod-1": 11, "pod-2": 13}
    assert (life.address, life.visible) == (ADDRESS, 14)


def test_an_eip_whose_object_never_named_an_address_has_the_one_that_was_put_on() -> None:
    life = Life("a", "eip-a", "gw-1", created=9)
    place({"a": life}, [Addition(10, 11, "pod-1", ADDRESS, "a")])
    assert (life.address, life.visible) == (ADDRESS, FOREVER)


def test_an_eip_is_not_placed_where_only_another_address_was_put_on_for_it() -> None:
    life = Life("a", "eip-a", "gw-1", created=9, address=ADDRESS)
    place({"a": life}, [Addition(10, 11, "pod-1", OTHER, "a"), Addition(12, 13, "pod-1", ADDRESS, "a")])
    assert (life.address, life.placed) == (ADDRESS, {"pod-1": 13})


@pytest.mark.parametrize("text", ["10.64.0.1", "10.64.1.255", "10.64.127.255"])
def test_what_eips_get_is_an_eip_address(text: str) -> None:
    assert is_eip_address(text)


@pytest.mark.parametrize(
    "text", ["10.64.192.0", "10.64.200.7", "10.64.255.254", "10.63.255.255", "10.65.0.1", "127.0.0.1", "fd00::1"]
)
def test_whatever_else_is_on_a_gateway_is_no_eip_address(text: str) -> None:
    assert not is_eip_address(text)


# What the kernel says.


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as namespace:
        build_interfaces(namespace)
        namespace.run("ip", "-batch", "-", stdin="\n".join([*FURNITURE, ""]))
        yield namespace


@pytest.fixture
def start(namespace: NetworkNamespace, tmp_path: Path) -> Iterator[StartWitness]:
    """Starts a witness of the namespace as pod-1's."""
    (tmp_path / "pod-1").symlink_to(namespace.path)
    started: list[PodWitness] = []

    def start_witness() -> PodWitness:
        started.append(PodWitness("pod-1", "gw-1", tmp_path / "pod-1", tmp_path))
        return started[-1]

    yield start_witness
    for witness in started:
        witness.close()


def let_it_hear(witness: PodWitness, namespace: NetworkNamespace) -> None:
    """Wait until the witness has heard of everything up to now."""
    namespace.ip("addr", "add", f"{OTHER}/16", "dev", "net1")
    eventually(lambda: any(change.address == OTHER for change in witness.changes()), "the witness to hear", 10)


def heard(witness: PodWitness, namespace: NetworkNamespace) -> list[Change]:
    let_it_hear(witness, namespace)
    return [change for change in witness.changes() if change.address != OTHER]


def words(witness: PodWitness) -> list[str]:
    return [" ".join(each.what.split()) for each in witness.foreign()]


def foreign(witness: PodWitness, namespace: NetworkNamespace) -> list[str]:
    """What it has to tell before its last look, all of it of this pod and in time."""
    let_it_hear(witness, namespace)
    assert all(each.pod == "pod-1" and witness.pod.born < each.at <= time.time() for each in witness.foreign())
    return words(witness)


@pytest.mark.kernel
def test_an_address_is_seen_to_come_and_to_go_when_it_does(namespace: NetworkNamespace, start: StartWitness) -> None:
    witness, times = start(), [time.time()]
    for what in ("add", "del"):
        namespace.ip("addr", what, f"{ADDRESS}/16", "dev", "net1")
        count = len(times)
        eventually(lambda count=count: len(list(witness.changes())) == count, "the witness to hear", 10)  # type: ignore[misc]
        times.append(time.time())
    came, went = witness.changes()
    assert (came.pod, came.address, came.added) == ("pod-1", ADDRESS, True)
    assert (went.pod, went.address, went.added) == ("pod-1", ADDRESS, False)
    assert times[0] <= came.at <= times[1] <= went.at <= times[2]


@pytest.mark.kernel
def test_an_address_that_was_there_before_comes_first(namespace: NetworkNamespace, start: StartWitness) -> None:
    namespace.ip("addr", "add", f"{ADDRESS}/16", "dev", "net1")
    witness = start()
    assert list(witness.changes()) == [Change(witness.pod.born, "pod-1", ADDRESS, added=True)]


@pytest.mark.kernel
def test_the_last_look_tells_which_eip_addresses_are_left(namespace: NetworkNamespace, start: StartWitness) -> None:
    witness = start()
    namespace.ip("addr", "add", f"{ADDRESS}/16", "dev", "net1")
    witness.look()
    assert witness.pod.final == frozenset({ADDRESS})
    assert witness.pod.ended == FOREVER


@pytest.mark.kernel
def test_the_routes_that_the_kernel_makes_for_an_address_are_nobodys(
    namespace: NetworkNamespace, start: StartWitness
) -> None:
    witness = start()
    # On net2 it is the primary address, with all the routes that are made for one.
    for interface in ("net1", "net2"):
        namespace.ip("addr", "add", f"{ADDRESS}/16", "dev", interface)
        namespace.ip("addr", "del", f"{ADDRESS}/16", "dev", interface)
    assert [change.added for change in heard(witness, namespace)] == [True, False] * 2
    witness.look()
    assert list(witness.foreign()) == []


@pytest.mark.kernel
def test_a_stand_in_of_an_eip_address_is_not_the_address(namespace: NetworkNamespace, start: StartWitness) -> None:
    witness = start()
    namespace.ip("addr", "add", f"{ADDRESS}/32", "dev", "net1")
    namespace.ip("addr", "del", f"{ADDRESS}/32", "dev", "net1")
    assert heard(witness, namespace) == []
    witness.look()
    assert list(witness.foreign()) == []


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("thing", "said", "left"),
    [
        (FURNITURE[0], "ADDR deleted: ", "192.0.2.7 is gone"),
        (FURNITURE[1], "ADDR deleted: ", "10.64.200.7 is gone"),
        (FURNITURE[2], "ROUTE deleted: 198.51.100.0/24 ", "routes are not as they were: "),
        (FURNITURE[3], "RULE deleted: 1077: from 198.51.100.7 lookup 77", "rules are not as they were: "),
    ],
)
def test_what_is_deleted_that_no_eip_is_about_is_foreign(
    namespace: NetworkNamespace, start: StartWitness, thing: str, said: str, left: str
) -> None:
    witness = start()
    namespace.ip(*thing.replace(" add ", " del ").split())
    (deleted,) = foreign(witness, namespace)
    assert deleted.startswith(said)
    assert thing.split()[2] in deleted or said.startswith("RULE")
    witness.look()
    first, *more = words(witness)
    assert first == deleted
    assert any(each.startswith(left) for each in more)


@pytest.mark.kernel
def test_what_is_deleted_and_given_back_was_deleted(namespace: NetworkNamespace, start: StartWitness) -> None:
    witness = start()
    for what in (" del ", " add "):
        namespace.ip(*FURNITURE[2].replace(" add ", what).split())
    (deleted,) = foreign(witness, namespace)
    witness.look()
    assert words(witness) == [deleted]


@pytest.mark.kernel
def test_a_setting_that_is_not_as_it_was_is_foreign(namespace: NetworkNamespace, start: StartWitness) -> None:
    setting = "net/ipv4/conf/net1/promote_secondaries"
    before = int(namespace.run("cat", f"/proc/sys/{setting}").stdout)
    witness = start()
    namespace.set_sysctl({setting: 1 - before})
    assert foreign(witness, namespace) == []
    witness.look()
    (changed,) = words(witness)
    assert changed.startswith("settings are not as they were: ")
    assert setting in changed


def test_an_addition_that_a_dead_controller_had_begun_is_not_forgotten_for_the_next_ones(tmp_path: Path) -> None:
    first, second = "10.64.1.1", "10.64.1.2"
    steps = [("eip_add_started", 10, first), ("eip_add_started", 15, second), ("eip_add_done", 15.1, second)]
    records = tmp_path / "records"
    lines = [
        json.dumps({"step": step, "time": at, "uid": "a", "pod_uid": "pod", "addresses": [address]})
        for step, at, address in steps
    ]
    records.write_text("".join(f"{line}\n" for line in lines))
    assert [(each.started, each.done, each.address) for each in additions(records)] == [
        (10, 12, first),
        (15, 15.1, second),
    ]

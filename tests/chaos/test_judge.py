"""One gateway, one address: EIP `a` leaves it at 20, worker 1 opens the gateway at 24 and removes it at 25.5."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from tests.chaos import judge as referee
from tests.chaos.evidence import FOREVER, Act, Addition, Change, Evidence, Foreign, Life, Outage, Pod, Work
from tests.chaos.judge import Verdict, judge, leaked_over_time

GATEWAY, POD, TWIN, ELSEWHERE, ADDRESS = "gw-1", "pod-1", "pod-1-twin", "pod-2", "10.64.1.1"
LOOKED, REMOVED, OVER = 24.0, 25.5, 25.6
IN_TIME, HIDDEN = 25.0, 30.0
"""When the address' next owner is seen: after the worker looked, but before or after it removed the address."""
LOCK_LIFE = 30.0
SLACK = 5.0


def eip(uid: str, placed: float, visible: float, gone: float = FOREVER) -> Life:
    return Life(
        uid, uid, GATEWAY, created=placed - 1, address=ADDRESS, visible=visible, gone=gone, placed={POD: placed}
    )


def on(at: float) -> Change:
    return Change(at, POD, ADDRESS, added=True)


def off(at: float) -> Change:
    return Change(at, POD, ADDRESS, added=False)


def act(process: int, opened: float, began: float, ended: float, pod: str = POD) -> Act:
    return Act(process, pod, opened, began, ended, closed=ended + 0.3)


def removal() -> Act:
    return act(1, LOOKED, 25.0, OVER)


def reclaimed(uid: str, *at: float) -> Work:
    return Work(uid, uid, GATEWAY, seen=20.1, reason="deleted", outcomes=["reclaimed"] * len(at), reclaimed_at=list(at))


def audit(seen: float, gateway: str = GATEWAY) -> Work:
    return Work("audit", None, gateway, seen, "gap", outcomes=["audited"], reclaimed_at=[])


def evidence(lives: list[Life], changes: list[Change], acts: list[Act], works: list[Work]) -> Evidence:
    """With what Kube-OVN did for these lives, and at the end with the addresses that were left by then."""
    pods = {
        POD: Pod(POD, GATEWAY, 0.0, final=frozenset({ADDRESS}) if changes[-1].added else frozenset()),
        TWIN: Pod(TWIN, GATEWAY, 0.0, final=frozenset()),
        ELSEWHERE: Pod(ELSEWHERE, "gw-2", 0.0, final=frozenset()),
    }
    additions = [Addition(at - 0.2, at, pod, ADDRESS, life.uid) for life in lives for pod, at in life.placed.items()]
    return Evidence(lives, pods, changes, additions, acts, [], works, lock_life=LOCK_LIFE, quiet=180.0, end=200.0)


def healthy() -> Evidence:
    changes, works = [on(9.9), off(REMOVED)], [reclaimed("a", OVER)]
    return evidence([eip("a", placed=10, visible=11, gone=20)], changes, [removal()], works)


def race(visible: float, back: float, **struck: Any) -> Evidence:
    """EIP `b` has got the address at 22, is seen at `visible`, and another worker puts its address back at `back`."""
    lives = [eip("a", placed=10, visible=11, gone=20), eip("b", placed=22, visible=visible)]
    acts = [removal(), act(3, back - 0.2, back - 0.1, back + 0.1)]
    return replace(evidence(lives, [on(9.9), off(REMOVED), on(back)], acts, [reclaimed("a", OVER)]), **struck)


def since(visible: float) -> float:
    """From when on the owner of a race was without its address."""
    return max(visible, REMOVED)


def named(seen: Evidence) -> list[str]:
    return [violation.kind for violation in judge(seen).violations]


def test_a_healthy_release_is_one_removal_of_what_leaked_since_its_owners_end() -> None:
    verdict = judge(healthy())
    assert verdict.kept
    assert (verdict.violations, verdict.absences) == ([], [])
    assert (verdict.removals, verdict.leaks) == (1, [(20.0, REMOVED)])


def test_a_release_of_which_nothing_became_is_named_lost() -> None:
    seen = healthy()
    seen.works.clear()
    (violation,) = judge(seen).violations
    assert (violation.kind, violation.at, violation.gateway) == (referee.LOST, 20.0, GATEWAY)


@pytest.mark.parametrize(("rolled_back", "names"), [(19.9, [referee.LOST]), (20.0, [])])
def test_a_release_before_redis_came_back_older_is_not_asked_for(rolled_back: float, names: list[str]) -> None:
    seen = replace(healthy(), works=[], rolled_back=rolled_back)
    assert named(seen) == names


@pytest.mark.parametrize(
    ("work", "names"), [(audit(20.1), []), (audit(19.9), [referee.LOST]), (audit(20.1, gateway="gw-2"), [referee.LOST])]
)
def test_only_an_audit_that_saw_the_gateway_after_the_end_accounts_for_a_release(work: Work, names: list[str]) -> None:
    seen = healthy()
    seen.works[:] = [work]
    assert named(seen) == names
    assert judge(seen).races["came and went in a gap of events, its gateway was audited"] == (not names)


def test_putting_an_address_on_for_nobody_outside_any_act_is_named() -> None:
    seen = evidence([], [on(9.9), off(REMOVED)], [removal()], [])
    assert named(seen) == [referee.LOCKLESS]
    assert judge(seen).races["put back for an owner that had just gone"] == 1


def test_removing_again_what_one_release_left_is_acting_twice() -> None:
    seen = healthy()
    seen.lives.append(eip("b", placed=29, visible=33.5))
    seen.additions.append(Addition(28.8, 29, POD, ADDRESS, "b"))
    seen.changes += [on(28.9), off(35), on(35.5)]
    seen.acts += [act(1, 34, 34.9, 35.1), act(1, 35.3, 35.4, 35.6)]
    seen.pods[POD].final = frozenset({ADDRESS})
    assert [(each.kind, each.at) for each in judge(seen).violations] == [(referee.DOUBLED, 35), (referee.TAKEN, 35)]


def test_removing_again_what_a_new_owner_has_just_got_is_a_race() -> None:
    seen = healthy()
    seen.lives.append(eip("b", placed=29, visible=35.3))
    seen.additions.append(Addition(28.8, 29, POD, ADDRESS, "b"))
    seen.changes += [on(28.9), off(35), on(35.5)]
    seen.acts += [act(1, 34, 34.9, 35.1), act(1, 35.3, 35.4, 35.6)]
    seen.pods[POD].final = frozenset({ADDRESS})
    verdict = judge(seen)
    assert verdict.kept
    assert verdict.races["looked at again when a new owner had just come"] == 1
    assert verdict.races["owner came: hidden moment"] == 1


def test_an_owner_whose_address_a_worker_put_on_a_new_pod_leaves_it_there() -> None:
    seen = evidence([replace(eip("a", 10, 11, gone=20), placed={})], [on(15), off(REMOVED)], [removal()], [])
    seen.works.append(reclaimed("a", OVER))
    seen.acts.append(act(2, 14.8, 14.9, 15.1))
    verdict = judge(seen)
    assert verdict.kept
    assert verdict.leaks == [(20, REMOVED)]


def test_an_address_put_back_for_an_owner_that_had_gone_may_be_removed_again() -> None:
    seen = healthy()
    seen.changes += [on(26), off(30)]
    seen.acts += [act(1, LOOKED, 25.9, 26.1), act(1, 29, 29.9, 30.1)]
    verdict = judge(seen)
    assert verdict.kept
    assert verdict.removals == 2


def test_an_address_put_back_at_once_is_the_workers_doing_also_right_after_eip_add() -> None:
    seen = evidence(
        [eip("a", placed=20.1, visible=20.1, gone=20.2)],
        [on(20.0), off(20.4), on(20.45), off(23)],
        [act(1, 20.3, 20.35, 20.5), act(1, 22, 22.9, 23.1)],
        [reclaimed("a", 23)],
    )
    verdict = judge(seen)
    assert verdict.kept
    assert verdict.races["put back by a worker"] == 1


def test_a_work_that_ended_as_reclaimed_twice_is_named() -> None:
    seen = healthy()
    seen.works[:] = [reclaimed("a", 26, 27)]
    assert [(each.kind, each.at) for each in judge(seen).violations] == [(referee.DOUBLED, 27)]


def test_an_address_taken_from_its_owner_is_named_however_short_it_was_away() -> None:
    assert named(race(visible=LOOKED - 0.1, back=REMOVED + 0.3)) == [referee.TAKEN]
    assert named(race(visible=LOOKED + 0.1, back=REMOVED + 0.3)) == []


def test_an_owner_that_went_before_the_removal_was_not_robbed() -> None:
    seen = healthy()
    seen.lives.append(eip("b", placed=22, visible=23, gone=25.4))
    seen.works.append(reclaimed("b", OVER))
    assert named(seen) == []


@pytest.mark.parametrize(("visible", "kind"), [(IN_TIME, "between look and act"), (HIDDEN, "hidden moment")])
def test_an_owner_may_be_without_its_address_for_a_second(visible: float, kind: str) -> None:
    verdict = judge(race(visible, back=since(visible) + 0.9))
    assert verdict.kept
    assert verdict.races[f"owner came: {kind}"] == 1
    (absence,) = verdict.absences
    assert (absence.life.uid, absence.since, absence.kind, absence.struck) == ("b", since(visible), kind, False)
    assert named(race(visible, back=since(visible) + 1.1)) == [referee.ABSENT]


def test_an_owner_whose_address_was_back_before_anybody_saw_it_was_never_without() -> None:
    verdict = judge(race(HIDDEN, back=HIDDEN - 1))
    assert (verdict.kept, verdict.absences) == (True, [])
    assert verdict.races["hidden moment: put back before its owner showed itself"] == 1


@pytest.mark.parametrize("visible", [IN_TIME, HIDDEN])
@pytest.mark.parametrize("strike", ["killed", "stopped"])
def test_an_owner_may_wait_for_the_lock_of_a_worker_that_was_struck_inside(visible: float, strike: str) -> None:
    struck: dict[str, Any] = {"killed": {1: 25.55}} if strike == "killed" else {"stopped": {1: [(25.55, 90.0)]}}
    limit = LOCK_LIFE + SLACK
    verdict = judge(race(visible, since(visible) + limit - 0.1, **struck))
    assert verdict.kept
    assert [each.struck for each in verdict.absences] == [True]
    assert named(race(visible, since(visible) + limit + 0.1, **struck)) == [referee.ABSENT]


@pytest.mark.parametrize(
    "struck",
    [
        {"killed": {2: 25.55}},
        {"stopped": {2: [(25.55, 90.0)]}},
        {"killed": {1: 60.0}},
        {"stopped": {1: [(12.0, 23.0), (60.0, 90.0)]}},
    ],
)
def test_a_strike_at_another_worker_or_another_time_excuses_nothing(struck: dict[str, Any]) -> None:
    assert named(race(IN_TIME, REMOVED + 1.1, **struck)) == [referee.ABSENT]
    assert named(race(HIDDEN, HIDDEN + 1.1, **struck)) == [referee.ABSENT]


@pytest.mark.parametrize(
    ("visible", "what"), [(IN_TIME, "api"), (HIDDEN, "api"), (HIDDEN, "redis"), (HIDDEN, "producers")]
)
def test_an_owner_may_wait_as_long_as_those_who_would_help_are_out(
    visible: float, what: Literal["redis", "api", "producers"]
) -> None:
    # The second lies within the first: no second counts twice.
    outages = [Outage(what, 25.0, 40.0), Outage(what, 31.0, 35.0)]
    limit = LOCK_LIFE + SLACK + (40.0 - since(visible))
    assert named(race(visible, since(visible) + limit - 0.1, outages=outages)) == []
    assert named(race(visible, since(visible) + limit + 0.1, outages=outages)) == [referee.ABSENT]


@pytest.mark.parametrize("what", ["redis", "producers"])
def test_a_worker_that_looks_again_needs_neither_redis_nor_producers(what: Literal["redis", "producers"]) -> None:
    assert named(race(IN_TIME, REMOVED + 1.1, outages=[Outage(what, 25.0, 40.0)])) == [referee.ABSENT]


def test_a_foreign_change_is_named_unless_its_pod_had_ended() -> None:
    seen = healthy()
    seen.foreign.append(Foreign(30.0, POD, "ROUTE deleted: default"))
    (violation,) = judge(seen).violations
    assert (violation.kind, violation.at, violation.what) == (referee.FOREIGN, 30.0, "ROUTE deleted: default")
    seen.pods[POD] = Pod(POD, GATEWAY, 0.0, ended=29.9)
    assert named(seen) == []


@pytest.mark.parametrize("pod", [POD, TWIN])
def test_acts_of_two_workers_on_one_gateway_at_the_same_time_are_named(pod: str) -> None:
    seen = healthy()
    seen.acts.append(act(2, 25.2, OVER - 0.1, 27, pod))
    assert named(seen) == [referee.OVERLAP]


@pytest.mark.parametrize(
    "other",
    [act(2, 25.2, OVER, 27), act(1, 25.2, 25.5, 27, TWIN), act(2, 25.2, 25.5, 27, ELSEWHERE), Act(2, POD, 25.2)],
    ids=["afterwards", "by the same worker", "on another gateway", "without a change"],
)
def test_acts_that_keep_the_order_do_not_overlap(other: Act) -> None:
    seen = healthy()
    seen.acts.append(other)
    assert named(seen) == []


@pytest.mark.parametrize(("at", "names"), [(25.9, []), (26.1, [referee.OVERLAP])])
def test_a_worker_that_was_killed_or_stopped_before_does_not_overlap(at: float, names: list[str]) -> None:
    killed, stopped = healthy(), healthy()
    killed.killed, stopped.stopped = {1: at}, {1: [(at, 80.0)]}
    for seen in (killed, stopped):
        seen.acts[:] = [Act(1, POD, LOOKED, 25.0), act(2, 25.8, 26.0, 27)]
        assert named(seen) == names


@pytest.mark.parametrize(
    "acts",
    [[], [act(1, LOOKED, 25.6, 26)], [act(1, LOOKED, 24.5, 24.8)], [act(1, LOOKED, 25, OVER, TWIN)], [Act(1, POD, 24)]],
    ids=["never", "too early", "too late", "on another pod", "only looked"],
)
def test_a_removal_outside_any_act_is_named(acts: list[Act]) -> None:
    assert named(replace(healthy(), acts=acts)) == [referee.LOCKLESS]


def test_a_change_may_be_written_down_a_moment_after_its_act() -> None:
    assert named(replace(healthy(), acts=[act(1, LOOKED, 25, REMOVED - 0.2)])) == []


def test_an_act_whose_end_nobody_knows_lasts_as_long_as_its_lock() -> None:
    seen = healthy()
    seen.acts[:] = [Act(1, POD, 0.0, REMOVED - LOCK_LIFE + 1)]
    assert named(seen) == []
    seen.acts[:] = [Act(1, POD, 0.0, REMOVED - LOCK_LIFE - 1)]
    assert named(seen) == [referee.LOCKLESS]


def test_putting_back_outside_any_act_is_named_unless_kube_ovn_did_it() -> None:
    seen = race(IN_TIME, back=26.4)
    seen.acts[:] = [removal()]
    assert [(each.kind, each.at) for each in judge(seen).violations] == [(referee.LOCKLESS, 26.4)]
    seen.additions.append(Addition(26.3, 26.5, POD, ADDRESS, "b"))
    assert named(seen) == []


def test_an_address_of_nobody_at_the_end_is_named_leaked() -> None:
    seen = evidence([eip("a", placed=10, visible=11, gone=20)], [on(9.9)], [], [reclaimed("a", OVER)])
    assert [(each.kind, each.at) for each in judge(seen).violations] == [(referee.LEAKED, 200.0)]


def test_an_owner_without_its_address_at_the_end_is_named_where_kube_ovn_had_put_it() -> None:
    seen = evidence([eip("a", placed=10, visible=11)], [on(9.9)], [], [])
    seen.pods[POD].final = frozenset()
    assert named(seen) == [referee.MISSING]


@pytest.mark.parametrize("left", [{"failed": "no active pod"}, {"pending": True}])
def test_work_that_failed_or_waits_still_is_unfinished_but_not_lost(left: dict[str, Any]) -> None:
    assert named(replace(healthy(), works=[Work("a", "a", GATEWAY, 20.1, "deleted", [], [], **left)])) == [
        referee.UNFINISHED
    ]


def test_work_published_while_the_evidence_was_taken_could_not_be_done_yet() -> None:
    late = Work("audit", None, GATEWAY, 200.1, "periodic", [], [], pending=True)
    assert named(replace(healthy(), works=[reclaimed("a", OVER), late])) == []


def test_an_address_that_came_after_its_owner_had_gone_is_leaked_from_then_on() -> None:
    late = eip("a", placed=22, visible=FOREVER, gone=20)
    verdict = judge(evidence([late], [on(21.9), off(REMOVED)], [removal()], [reclaimed("a", OVER)]))
    assert verdict.kept
    assert verdict.leaks == [(21.9, REMOVED)]
    assert verdict.races["address arrived after its EIP was gone"] == 1


def test_an_address_put_on_for_an_eip_that_then_got_another_was_nobodys_from_the_beginning() -> None:
    other = replace(eip("a", placed=16, visible=17), address="10.64.1.2")
    seen = evidence([other], [on(9.9), off(REMOVED)], [removal()], [])
    seen.additions.append(Addition(9.8, 10.0, POD, ADDRESS, "a"))
    seen.pods[POD].final = frozenset({"10.64.1.2"})
    verdict = judge(seen)
    assert verdict.kept
    assert verdict.leaks == [(9.9, REMOVED)]
    assert verdict.races["put on for an EIP that then got another address"] == 1


def test_leaks_are_counted_over_time() -> None:
    verdict = Verdict(leaks=[(1.0, 4.0), (6.0, 8.0), (2.0, 6.0)])
    assert list(leaked_over_time(verdict)) == [(1, 1), (2, 2), (4, 1), (6, 0), (6, 1), (8, 0)]


def test_an_end_of_which_the_witness_heard_after_the_worker_is_owed_once() -> None:
    lives = [eip("a", placed=10, visible=11, gone=25.7)]
    seen = evidence(lives, [on(9.9), off(REMOVED)], [act(1, 25.3, 25.4, OVER)], [reclaimed("a", OVER)])
    verdict = judge(seen)
    assert verdict.violations == []
    assert verdict.leaks == [(REMOVED, REMOVED)]
    again = evidence(
        [*lives, eip("b", placed=28, visible=29)],
        [on(9.9), off(REMOVED), on(27.9), off(30), on(31.1)],
        [act(1, 25.3, 25.4, OVER), act(2, 29.8, 29.9, 30.1), act(2, 31, 31.05, 31.2)],
        [reclaimed("a", OVER)],
    )
    assert named(again) == [referee.DOUBLED, referee.TAKEN]


def test_a_change_that_failed_is_over_when_its_gateway_is_closed() -> None:
    acts = [Act(1, POD, 24, 25, closed=26), act(2, 34, 35, 36)]
    seen = evidence([eip("a", placed=10, visible=11, gone=20)], [on(9.9), off(35.5)], acts, [reclaimed("a", 36)])
    assert judge(seen).violations == []


def test_a_removal_that_may_be_of_two_acts_is_that_of_the_first() -> None:
    lives = [eip("a", placed=10, visible=11, gone=20), eip("b", placed=22, visible=25.62)]
    acts = [act(1, 24, 25, 25.6), act(2, 25.66, 25.7, 26)]
    seen = evidence(lives, [on(9.9), off(25.75), on(25.9)], acts, [reclaimed("a", 26)])
    assert judge(seen).violations == []


def test_a_worker_that_is_killed_when_it_is_to_put_the_address_back_strikes_the_race() -> None:
    mender = act(2, 29.5, 29.7, FOREVER)
    seen = race(visible=HIDDEN, back=41, killed={2: 29.9})
    seen.acts.append(mender)
    assert judge(seen).violations == []
    assert judge(race(visible=HIDDEN, back=41)).violations != []


def test_an_address_that_comes_from_nowhere_is_named() -> None:
    seen = healthy()
    seen.changes.append(Change(15, TWIN, "10.64.1.2", added=True))
    assert referee.LOCKLESS in named(seen)


def test_a_periodic_audit_accounts_for_no_release() -> None:
    seen = evidence([eip("a", placed=10, visible=11, gone=20)], [on(9.9), off(REMOVED)], [removal()], [audit(21)])
    seen.works[0].reason = "periodic"
    assert named(seen) == [referee.LOST]


def test_an_audit_that_was_replayed_accounts_for_what_it_audited() -> None:
    seen = evidence([eip("a", placed=10, visible=11, gone=20)], [on(9.9), off(REMOVED)], [removal()], [audit(21)])
    seen.works[0].outcomes.append("audited")
    assert judge(seen).violations == []

"""The verdict: what the product promises, held against what was seen from outside.

An EIP is *live* on a pod from when its object names its address and Kube-OVN has put it on, until the object is gone.
A removal is *owed* when an EIP whose address was on the pod is gone since the last removal. From these two, and from
when a worker had the gateway open, each removal is judged: rightly owed; of an address that a live EIP visibly owned
before the worker opened the gateway (a wrong decision); of one whose owner came meanwhile (a race); or of nothing owed
(the same release acted twice).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

from tests.chaos.evidence import FOREVER, Act, Addition, Change, Evidence, Life, Pod

RACE_SECONDS = 1.0
STRUCK_SECONDS = 5.0
"""Beyond the lock's life, when the worker was killed or stopped inside the race, or nobody could be reached."""
QUIET_SECONDS = 120.0
"""How long after the last fault nothing may be leaked any more."""
WATCH_SECONDS = 0.5
"""How much later than a worker the witness may hear of an event."""
KERNEL_SECONDS = 0.5
"""How much later than it happened a change in a pod may be written down: the kernel gives it no time of its own."""

STRAY = "stray of "

LOST = "release lost"
DOUBLED = "acted twice"
TAKEN = "taken from its owner"
ABSENT = "owner too long without its address"
FOREIGN = "foreign change"
OVERLAP = "overlapping acts"
LOCKLESS = "changed without the lock"
LEAKED = "leaked at the end"
MISSING = "owner without its address at the end"
UNFINISHED = "work unfinished at the end"


@dataclass(frozen=True)
class Violation:
    """A promise that was not kept."""

    kind: str
    at: float
    gateway: str
    what: str


@dataclass
class Absence:
    """A live EIP was without its address on a pod."""

    life: Life
    pod: Pod
    removed: float
    since: float
    until: float
    act: Act | None
    kind: str = ""
    struck: bool = False

    @property
    def seconds(self) -> float:
        """How long."""
        return self.until - self.since


@dataclass
class Verdict:
    """What was violated, and how often each race was really run."""

    violations: list[Violation] = field(default_factory=list)
    races: Counter[str] = field(default_factory=Counter)
    absences: list[Absence] = field(default_factory=list)
    leaks: list[tuple[float, float]] = field(default_factory=list)
    """Each leak: since when, until when."""
    removals: int = 0

    @property
    def kept(self) -> bool:
        """Whether every promise was."""
        return not self.violations


def judge(evidence: Evidence) -> Verdict:
    """Judge a run."""
    return _Judge(evidence).verdict


class _Judge:
    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self.verdict = Verdict()
        self._acts: dict[str, list[Act]] = defaultdict(list)
        for act in sorted(evidence.acts, key=lambda each: each.opened):
            self._acts[act.pod].append(act)
        self._lives: dict[tuple[str, str], list[Life]] = defaultdict(list)
        for life in evidence.lives:
            if life.address is not None:
                self._lives[life.gateway, life.address].append(replace(life, placed=dict(life.placed)))
        self._additions: dict[tuple[str, str], list[Addition]] = defaultdict(list)
        for addition in evidence.additions:
            self._additions[addition.pod, addition.address].append(addition)
        for stray in _strays(evidence):
            self._lives[stray.gateway, stray.address or ""].append(stray)
        changes: dict[tuple[str, str], list[Change]] = defaultdict(list)
        for change in sorted(evidence.changes, key=lambda each: each.at):
            changes[change.pod, change.address].append(change)
        for (uid, address), story in changes.items():
            pod = evidence.pods[uid]
            self._judge_place(pod, address, [each for each in story if each.at < pod.ended])
        self._judge_acts()
        self._judge_foreign()
        self._judge_work()
        self._judge_end()
        self._count_strikes()
        self.verdict.violations.sort(key=lambda each: each.at)

    def _violation(self, kind: str, at: float, gateway: str, what: str) -> None:
        self.verdict.violations.append(Violation(kind, at, gateway, what))

    # One address on one pod.

    def _judge_place(self, pod: Pod, address: str, story: list[Change]) -> None:
        lives = self._lives[pod.gateway, address]
        gaps = self._removals(pod, address, story, lives)
        for removed, back in gaps:
            act = self._act_at(pod, removed)
            for life in lives:
                placed = life.placed.get(pod.uid, FOREVER)
                if self._placing(life, pod) <= removed < back <= life.visible < FOREVER:
                    self.verdict.races["hidden moment: put back before its owner showed itself"] += 1
                since = max(removed, life.visible, placed)
                until = min(back, life.gone, pod.ended, self._evidence.end)
                if since < until and (self._placing(life, pod) <= removed or life.visible <= removed):
                    self._judge_absence(Absence(life, pod, removed, since, until, act))

    def _removals(self, pod: Pod, address: str, story: list[Change], lives: list[Life]) -> list[tuple[float, float]]:
        """Each time the address was away, seeing on the way that each removal was owed."""
        gaps: list[tuple[float, float]] = []
        present_since: float | None = None
        removed: float | None = None
        by_worker = False
        settled = 0.0
        """Ends of lives up to here were acted on."""
        before_last = 0.0
        for change in story:
            if change.added:
                if present_since is not None:
                    continue
                present_since = change.at
                by_worker = change.at > pod.born and (
                    self._in_one_act(pod, removed, change.at) or not self._by_kube_ovn(change)
                )
                if by_worker:
                    self._expect_lock(pod, change)
                    self.verdict.races["put back by a worker"] += 1
                    if not self._held(pod, lives, change.at):
                        settled = before_last
                self._note_placed(pod, lives, change.at, by_worker=by_worker)
                if removed is not None:
                    gaps.append((removed, change.at))
                    removed = None
            elif present_since is not None:
                self.verdict.removals += 1
                self._expect_lock(pod, change)
                owed = [
                    life
                    for life in lives
                    if settled < max(life.gone, life.placed.get(pod.uid, FOREVER)) <= change.at + WATCH_SECONDS
                    and life.gone <= change.at + WATCH_SECONDS
                ]
                if not owed and by_worker:
                    # For an owner that had just gone; its own release takes it away again.
                    self.verdict.leaks.append((present_since, change.at))
                    self.verdict.races["put back for an owner that had just gone"] += 1
                elif not owed and self._meets_a_new_owner(pod, lives, change):
                    self.verdict.races["looked at again when a new owner had just come"] += 1
                elif not owed:
                    self._violation(DOUBLED, change.at, pod.gateway, f"{address} was removed though nobody had left it")
                else:
                    since = max(present_since, min(max(each.gone, each.placed[pod.uid]) for each in owed))
                    self.verdict.leaks.append((min(since, change.at), change.at))
                    self._count_races(pod, address, lives, owed, change)
                before_last, settled = settled, max([change.at, *(each.gone for each in owed)])
                present_since, removed = None, change.at
        if removed is not None:
            gaps.append((removed, FOREVER))
        return gaps

    def _note_placed(self, pod: Pod, lives: list[Life], at: float, *, by_worker: bool) -> None:
        """An address that appears is its owner's from now on: a worker put it there, or `eip-add` is told of late."""
        for life in lives:
            begun = self._placing(life, pod)
            if (by_worker and life.visible <= at < life.gone) or begun <= at < life.placed.get(pod.uid, 0.0):
                life.placed[pod.uid] = min(at, life.placed.get(pod.uid, FOREVER))

    def _meets_a_new_owner(self, pod: Pod, lives: list[Life], change: Change) -> bool:
        """Whether somebody owned what was removed, whom the worker could not see: a race, whose length is judged."""
        act = self._act_at(pod, change.at)
        return act is not None and any(
            life.placed.get(pod.uid, FOREVER) <= change.at < life.gone and life.visible >= act.opened for life in lives
        )

    def _placing(self, life: Life, pod: Pod) -> float:
        """When Kube-OVN began to put an EIP's address on a pod."""
        additions = self._additions[pod.uid, life.address or ""]
        return min((each.started for each in additions if each.uid == life.uid), default=FOREVER)

    def _held(self, pod: Pod, lives: list[Life], at: float) -> bool:
        return any(life.placed.get(pod.uid, FOREVER) <= at < life.gone for life in lives)

    def _by_kube_ovn(self, change: Change) -> bool:
        return any(
            each.started <= change.at <= each.done + KERNEL_SECONDS
            for each in self._additions[change.pod, change.address]
        )

    def _act_at(self, pod: Pod, at: float) -> Act | None:
        """The act in which a change was made; the one that looked first, if it may be that of several."""
        return min(
            (each for each in self._acts[pod.uid] if each.began is not None and each.began <= at <= self._over(each)),
            key=lambda each: each.opened,
            default=None,
        )

    def _in_one_act(self, pod: Pod, removed: float | None, back: float) -> bool:
        """Whether the worker that removed an address put it back at once: then it was not `eip-add`, however near."""
        act = self._act_at(pod, back)
        return act is not None and removed is not None and act is self._act_at(pod, removed)

    def _over(self, act: Act) -> float:
        """When the act's change was over at the latest: with its lock's life, for a worker that never told."""
        assert act.began is not None
        return min(act.ended, act.began + self._evidence.lock_life) + KERNEL_SECONDS

    def _expect_lock(self, pod: Pod, change: Change) -> None:
        if self._act_at(pod, change.at) is None:
            did = "put on" if change.added else "removed"
            self._violation(LOCKLESS, change.at, pod.gateway, f"{change.address} was {did} outside any worker's act")

    def _judge_absence(self, absence: Absence) -> None:
        life, act = absence.life, absence.act
        name = f"{life.name}'s {life.address}"
        self.verdict.absences.append(absence)
        if act is not None and life.visible < act.opened and life.gone > absence.removed + WATCH_SECONDS:
            absence.kind = "wrong decision"
            why = f"{name} was removed, its owner was there {act.opened - life.visible:.2f} s before the worker looked"
            self._violation(TAKEN, absence.removed, life.gateway, f"{why}; away {absence.seconds:.3f} s")
            return
        absence.kind = "between look and act" if life.visible <= absence.removed else "hidden moment"
        absence.struck = self._struck(absence)
        self.verdict.races[f"owner came: {absence.kind}" + (", struck" if absence.struck else "")] += 1
        limit = RACE_SECONDS
        if absence.struck:
            limit = self._evidence.lock_life + STRUCK_SECONDS + self._outage(absence)
        if absence.seconds > limit:
            struck = ", struck" if absence.struck else ""
            what = f"{name} was away {absence.seconds:.2f} s ({absence.kind}{struck}), {limit:.1f} s are allowed"
            self._violation(ABSENT, absence.since, life.gateway, what)

    def _struck(self, absence: Absence) -> bool:
        """Whether somebody who had to mend it was out of order meanwhile: whoever had the gateway open by then."""
        for act in self._acts[absence.pod.uid]:
            if act.opened > absence.until or act.closed < absence.removed:
                continue
            killed = self._evidence.killed.get(act.process, FOREVER)
            stops = self._evidence.stopped.get(act.process, ())
            if act.opened <= killed <= absence.until:
                return True
            if any(since <= absence.until and until >= act.opened for since, until in stops):
                return True
        # An owner that showed itself in time is seen by the worker's own second look, which needs API and gateway only.
        needed = ("api",) if absence.kind == "between look and act" else ("api", "redis", "producers")
        return any(
            outage.what in needed and outage.since <= absence.until and outage.until >= absence.removed
            for outage in self._evidence.outages
        )

    def _outage(self, absence: Absence) -> float:
        """Seconds of the absence in which API, Redis or producers were out of order."""
        spans = [
            (max(outage.since, absence.since), min(outage.until, absence.until)) for outage in self._evidence.outages
        ]
        return _covered(span for span in spans if span[0] < span[1])

    def _count_races(self, pod: Pod, address: str, lives: list[Life], owed: list[Life], change: Change) -> None:
        races = self.verdict.races
        left = min(each.gone for each in owed)
        if any(each.name.startswith(STRAY) for each in owed):
            races["put on for an EIP that then got another address"] += 1
        elif any(each.placed.get(pod.uid, FOREVER) > each.gone for each in owed):
            races["address arrived after its EIP was gone"] += 1
        if any(each not in owed and each.created < change.at and each.gone > left for each in lives):
            races["created again on the same gateway before the leak was mended"] += 1
        others = (
            life
            for gateway, theirs in self._lives.items()
            if gateway[1] == address and gateway[0] != pod.gateway
            for life in theirs
        )
        if any(life.placed and min(life.placed.values()) < change.at and life.gone > left for life in others):
            races["live on another gateway while it leaked here"] += 1

    # Workers.

    def _judge_acts(self) -> None:
        by_gateway: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
        for pod, acts in self._acts.items():
            gateway = self._evidence.pods[pod].gateway
            for act in acts:
                if act.began is not None:
                    by_gateway[gateway].append((act.began, self._change_over(act), act.process))
        for gateway, spans in by_gateway.items():
            running: tuple[float, float, int] | None = None
            for span in sorted(spans):
                if running is not None and span[0] < running[1] and span[2] != running[2]:
                    what = f"workers {running[2]} and {span[2]} changed it at the same time"
                    self._violation(OVERLAP, span[0], gateway, what)
                if running is None or span[1] > running[1]:
                    running = span

    def _change_over(self, act: Act) -> float:
        """When a worker's change was over: it may have been stopped with the answer already on its way."""
        assert act.began is not None
        ends = [act.ended, act.closed, act.began + self._evidence.lock_life]
        ends.append(self._evidence.killed.get(act.process, FOREVER))
        ends += [since for since, _ in self._evidence.stopped.get(act.process, ()) if since >= act.began]
        return min(ends)

    def _count_strikes(self) -> None:
        for acts in self._acts.values():
            for act in acts:
                killed = self._evidence.killed.get(act.process, FOREVER)
                if act.opened <= killed <= act.closed:
                    where = "inside a change" if act.began and act.began <= killed <= act.ended else "in a round"
                    self.verdict.races[f"worker killed {where}"] += 1
                for since, until in self._evidence.stopped.get(act.process, ()):
                    if act.opened <= since <= act.closed:
                        past = " past its lock's life" if until - since > self._evidence.lock_life else ""
                        self.verdict.races[f"worker stopped in a round{past}"] += 1

    # What is left.

    def _judge_foreign(self) -> None:
        for foreign in self._evidence.foreign:
            pod = self._evidence.pods[foreign.pod]
            if foreign.at < pod.ended:
                self._violation(FOREIGN, foreign.at, pod.gateway, foreign.what)

    def _judge_work(self) -> None:
        accounted = set()
        audited: dict[str, float] = defaultdict(float)
        for work in self._evidence.works:
            if work.reason == "gap" and "audited" in work.outcomes:
                audited[work.gateway] = max(audited[work.gateway], work.seen)
            if work.uid and (work.outcomes or work.failed or work.pending):
                accounted.add(work.uid)
            for first, again in pairwise(work.reclaimed_at):
                if again > first:
                    self._violation(DOUBLED, again, "", f"{work.id} ended `reclaimed` more than once")
            if work.failed is not None:
                self._violation(UNFINISHED, self._evidence.end, "", f"{work.id} failed: {work.failed}")
            elif work.pending and work.seen <= self._evidence.end:
                # What was published while the evidence was taken could not be done yet.
                self._violation(UNFINISHED, self._evidence.end, "", f"{work.id} has no outcome yet")
        for life in self._evidence.lives:
            if life.uid in accounted or not self._evidence.rolled_back < life.gone < FOREVER:
                continue
            if audited[life.gateway] > life.gone:
                self.verdict.races["came and went in a gap of events, its gateway was audited"] += 1
                continue
            what = f"nothing became of the release of {life.name} ({life.uid})"
            self._violation(LOST, life.gone, life.gateway, what)

    def _judge_end(self) -> None:
        end = self._evidence.end
        for pod in self._evidence.pods.values():
            if pod.final is None:
                continue
            owned = {
                life.address: life
                for life in self._evidence.lives
                if life.gateway == pod.gateway and life.address and life.gone == FOREVER
            }
            for address in sorted(pod.final - set(owned)):
                self._violation(
                    LEAKED, end, pod.gateway, f"{address} is nobody's {end - self._evidence.quiet:.0f} s after"
                )
            for address, life in owned.items():
                if address not in pod.final and pod.uid in life.placed:
                    self._violation(MISSING, end, pod.gateway, f"{life.name} has lost {address}")


def _strays(evidence: Evidence) -> Iterator[Life]:
    """What was put on for an EIP whose object then got another address: it belonged to nobody from the beginning.

    So it is where Kube-OVN's controller died between the two, and chose anew when it came back.
    """
    lives = {life.uid: life for life in evidence.lives}
    for addition in evidence.additions:
        life = lives[addition.uid]
        if life.address != addition.address:
            yield Life(
                uid=life.uid,
                name=f"{STRAY}{life.name}",
                gateway=life.gateway,
                created=life.created,
                address=addition.address,
                gone=addition.started,
                placed={addition.pod: addition.done},
            )


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds covered by spans that may overlap."""
    total, reached = 0.0, float("-inf")
    for since, until in sorted(spans):
        total += max(0.0, until - max(since, reached))
        reached = max(reached, until)
    return total


def leaked_over_time(verdict: Verdict) -> Iterator[tuple[float, int]]:
    """How many addresses were leaked, from when to when."""
    steps = sorted([(since, 1) for since, _ in verdict.leaks] + [(until, -1) for _, until in verdict.leaks])
    count = 0
    for at, step in steps:
        count += step
        yield at, count

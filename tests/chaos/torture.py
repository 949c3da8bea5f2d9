"""One whole run: a world under its script of faults, the verdict, and the report."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos import report
from tests.chaos.evidence import Evidence
from tests.chaos.judge import Verdict, judge
from tests.chaos.parts import Parts, Sizes
from tests.chaos.script import WEIGHTS, Fault, Kind, script
from tests.chaos.world import Told, World

SLOTS_PER_GATEWAY = 3


@dataclass(frozen=True)
class Plan:
    """How large a run is, and what goes wrong in it."""

    seed: int
    eips: int
    gateways: int
    minutes: float
    pause: float = 4.0
    """Mean seconds between two faults."""
    kinds: tuple[Kind, ...] = tuple(WEIGHTS)
    """Only these faults strike."""
    slow: float = 0.2
    """How many acts of workers begin late."""
    late: tuple[float, float] = Sizes.late
    """Seconds by which they do, at least and at most."""
    without: str = ""
    """A safeguard of the product that is switched off."""

    @property
    def sizes(self) -> Sizes:
        """What is started."""
        slots = self.gateways * SLOTS_PER_GATEWAY
        return Sizes(self.eips, self.gateways, slots=slots, slow=self.slow, late=self.late, without=self.without)

    @property
    def faults(self) -> list[Fault]:
        """The script."""
        return script(
            self.seed,
            self.minutes * 60,
            producers=self.sizes.producers,
            workers=self.sizes.workers,
            gateways=self.gateways,
            pause=self.pause,
            weights={kind: WEIGHTS[kind] for kind in self.kinds},
        )


@dataclass(frozen=True)
class Kept:
    """What a run leaves behind, enough to judge it once more."""

    plan: Plan
    told: Told
    evidence: Evidence


def torture(plan: Plan, reports: Path, *, keep: bool = False) -> tuple[Verdict, dict[str, Any]]:
    """Run, judge, and write the report; the verdict, and what the report says.

    Args:
        plan: what to do.
        reports: where `report.json` and `report.html` are written.
        keep: whether logs and evidence are kept beside them, so that the run can be judged once more.
    """
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        with Parts(directory, plan.sizes, plan.seed) as parts:
            world = World(parts, plan.sizes, plan.seed)
            evidence = world.run(plan.faults)
        kept = Kept(plan, world.told, evidence)
        if keep:
            reports.mkdir(parents=True, exist_ok=True)
            (reports / "kept.pickle").write_bytes(pickle.dumps(kept))
        return judged(kept, reports)
    finally:
        if keep:
            shutil.copytree(directory, reports / "evidence", dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(directory, ignore_errors=True)


def judged(kept: Kept, reports: Path) -> tuple[Verdict, dict[str, Any]]:
    """Judge what was kept of a run, and write the report."""
    verdict = judge(kept.evidence)
    facts = report.summary(kept.plan.seed, kept.plan.sizes, kept.plan.faults, kept.told, kept.evidence, verdict)
    report.write(reports, facts, kept.told, kept.evidence, verdict)
    return verdict, facts

"""Every case there is, in the order they are run and shown."""

from benchmarks.cases.fairness import FAIRNESS
from benchmarks.cases.gateways import GATEWAYS
from benchmarks.cases.job import JOB
from benchmarks.cases.scale import SCALE
from benchmarks.cases.single import SINGLE
from benchmarks.cases.startup import STARTUP
from benchmarks.cases.thousand import THOUSAND
from benchmarks.harness import Case

CASES: tuple[Case, ...] = (SINGLE, THOUSAND, JOB, GATEWAYS, FAIRNESS, SCALE, STARTUP)

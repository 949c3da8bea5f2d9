"""Metrics: what is exposed is what the catalogue and the documents say, and no label has a value the world chooses."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shared import metrics
from shared.errors import PermanentError, TransientError
from shared.metrics import CATALOGUE, ERRORS, PREFIX, PRODUCER_REGISTRY, WORKER_REGISTRY, Definition, FromRedis
from workers.failures import classify

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "metrics.md"
REGISTRIES = {"producer": PRODUCER_REGISTRY, "worker": WORKER_REGISTRY}
# Made by the process, its platform and its garbage collector.
FOREIGN = ("process_", "python_")


def exposed(registry: CollectorRegistry) -> dict[str, str]:
    """Our metrics in an exposition, with their types."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    named = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in families
        if not family.name.startswith(FOREIGN)
    }
    # The text format has no type for an info.
    return {name: "info" if name.endswith("_info") else kind for name, kind in named.items()}


@pytest.mark.parametrize("part", REGISTRIES)
def test_what_a_part_exposes_is_in_the_catalogue(part: str) -> None:
    from_redis = {each.name for each in vars(metrics).values() if isinstance(each, FromRedis)}
    wanted = {name: each.type for name, each in CATALOGUE.items() if each.where in (part, "both")}
    assert exposed(REGISTRIES[part]) == {name: kind for name, kind in wanted.items() if name not in from_redis}


@pytest.mark.parametrize("part", REGISTRIES)
def test_every_label_has_only_values_that_the_catalogue_names(part: str) -> None:
    for family in text_string_to_metric_families(generate_latest(REGISTRIES[part]).decode()):
        for sample in family.samples:
            if not family.name.startswith(FOREIGN):
                assert_bounded(sample.name, sample.labels)


def assert_bounded(sample: str, labels: dict[str, str]) -> None:
    definition = CATALOGUE.get(sample) or CATALOGUE[re.sub("_(bucket|sum|count)$", "", sample)]
    for label, value in labels.items():
        if label != "le" and definition.type != "info":
            assert value in definition.labels[label], sample


def test_names_are_those_of_the_ecosystem() -> None:
    for name, definition in CATALOGUE.items():
        assert re.fullmatch(r"eip_reclaimer_[a-z_]+", name)
        assert name.endswith("_total") == (definition.type == "counter"), name
        assert name.endswith("_info") == (definition.type == "info"), name
        assert not re.search(r"_(ms|minutes|hours|milliseconds)$", name)


def test_a_class_that_is_not_named_is_counted_as_other() -> None:
    class NewError(TransientError):
        pass

    before = metrics.JOB_ERRORS.labels("other", "transient")._value.get()
    verdict = classify(NewError("new"))
    metrics.count_job_error(verdict.error, transient=verdict.transient)
    assert metrics.JOB_ERRORS.labels("other", "transient")._value.get() == before + 1


@pytest.mark.parametrize("base", [TransientError, PermanentError])
def test_every_class_of_error_there_is_has_its_own_name(base: type[Exception]) -> None:
    # What is raised in a job, wherever it is defined.
    files = [*(ROOT / "shared").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]
    classes = [
        node for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)
    ]
    children = {node.name for node in classes if [ast.unparse(each) for each in node.bases] == [base.__name__]}
    # A worker that cannot connect has no job.
    named = children - {"RedisUnavailableError"}
    kind = base.__name__.removesuffix("Error").lower()
    assert named
    assert {name: ERRORS.get(name) for name in named} == dict.fromkeys(named, kind)


@pytest.mark.parametrize(
    ("status", "code"), [(403, "403"), (418, "4xx"), (500, "5xx"), (503, "5xx"), (0, "malformed"), (302, "malformed")]
)
def test_a_status_code_is_counted_in_its_class(status: int, code: str) -> None:
    before = metrics.API_ERRORS.labels(code)._value.get()
    metrics.count_api_error(status)
    assert metrics.API_ERRORS.labels(code)._value.get() == before + 1


class TestDocument:
    ROW = re.compile(r"^\| `(eip_reclaimer_\w+)` \| (\w+) \| (\w+) \| (.*?) \| (.+) \|$", re.MULTILINE)

    def rows(self) -> dict[str, tuple[str, str, str, str]]:
        found = self.ROW.findall(DOCUMENT.read_text())
        assert len({name for name, *_ in found}) == len(found)
        return {name: (kind, where, labels, meaning) for name, kind, where, labels, meaning in found}

    def test_its_table_is_the_catalogue(self) -> None:
        assert self.rows() == {
            name: (each.type, each.where, self.labels(each), each.meaning) for name, each in CATALOGUE.items()
        }

    @staticmethod
    def labels(definition: Definition) -> str:
        described = []
        for label, values in definition.labels.items():
            described.append(f"`{label}`" + (f": {', '.join(values)}" if values else ""))
        return "; ".join(described) or "none"

    def test_its_alerts_ask_for_metrics_and_labels_that_there_are(self) -> None:
        (block,) = re.findall(r"```yaml\n(groups:.*?)```", DOCUMENT.read_text(), re.DOTALL)
        rules = [rule for group in yaml.safe_load(block)["groups"] for rule in group["rules"]]
        assert len(rules) > 5
        for rule in rules:
            assert {"alert", "expr", "annotations"} <= set(rule)
            assert balanced(rule["expr"])
            named = re.findall(rf"({PREFIX}\w+)(?:{{([^}}]*)}})?", rule["expr"])
            assert named, rule
            for name, matchers in named:
                definition = CATALOGUE.get(name) or CATALOGUE[name.removesuffix("_bucket")]
                for label, pattern in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
                    values = definition.labels[label]
                    assert set(pattern.split("|")) <= set(values), rule


def balanced(expression: str) -> bool:
    """Whether every bracket is closed by its own kind."""
    opened: list[str] = []
    for character in re.sub(r'"[^"]*"', "", expression):
        if character in "([{":
            opened.append(character)
        elif character in ")]}" and (not opened or opened.pop() != {")": "(", "]": "[", "}": "{"}[character]):
            return False
    return not opened

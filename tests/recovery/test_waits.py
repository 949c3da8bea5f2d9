"""The measured recovery is within its limit only where every single job was."""

from __future__ import annotations

import pytest

from tests.recovery.waits import Waits, judged


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [([1.0, 59.0], True), ([1.0, 60.5], False), ([1.0, None], False), ([None], False), ([], False)],
)
def test_a_limit_is_kept_when_every_job_was_recovered_within_it(seconds: list[float | None], kept: bool) -> None:
    case = judged(60.0, Waits(seconds))
    assert case["kept"] is kept
    assert case["seconds"] == seconds


def test_what_is_told_of_a_case() -> None:
    case = judged(60.0, Waits([float(number) for number in range(101)], {"started": 101}))
    assert [case[name] for name in ("count", "lost", "median", "p95", "longest")] == [101, 0, 50.0, 95.0, 100.0]
    assert case["found"] == {"started": 101}

"""A script's text goes along once with the commands of a pipeline, whatever the server knew before."""

from __future__ import annotations

import pytest
from redis import Redis

from shared.scripts import Script

pytestmark = pytest.mark.server

ADD = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")


@pytest.mark.parametrize("transaction", [True, False])
def test_it_goes_along_once_however_often_it_runs(redis: Redis, transaction: bool) -> None:
    with redis.pipeline(transaction=transaction) as pipe:
        for number in (1, 2, 3):
            ADD.join(pipe, ["count"], [number])
        Script("return 'another'").join(pipe, [], [])
        assert [command[0][0] for command in pipe.command_stack].count("SCRIPT LOAD") == 2
        _, *counts, _, another = pipe.execute()
    assert counts == [1, 3, 6]
    assert another == b"another"


@pytest.mark.parametrize("transaction", [True, False])
def test_a_pipeline_that_is_used_again_takes_it_along_again(redis: Redis, transaction: bool) -> None:
    with redis.pipeline(transaction=transaction) as pipe:
        for expected in (1, 2):
            ADD.join(pipe, ["count"], [1])
            assert pipe.execute()[-1] == expected
            redis.script_flush()
        ADD.join(pipe, ["count"], [1])
        pipe.reset()
        ADD.join(pipe, ["count"], [1])
        assert pipe.execute()[-1] == 3
    assert ADD.run(redis, ["count"], [1]) == 4

"""A job that takes too long is ended, in whatever thread it runs, and only that one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from rq.timeouts import JobTimeoutException

from workers.deadline import Deadline


def in_thread(work: Callable[[], None]) -> list[BaseException]:
    """What the work raised there."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        Deadline.strike()
        thread.join(0.02)
    return raised


def busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.001)


def test_what_takes_too_long_is_ended_in_its_thread() -> None:
    def work() -> None:
        with Deadline(0.1, JobTimeoutException):
            busy(20)

    began = time.monotonic()
    (raised,) = in_thread(work)
    assert isinstance(raised, JobTimeoutException)
    assert time.monotonic() - began < 10


def test_what_is_through_in_time_is_not_ended_nor_what_comes_after_it() -> None:
    def work() -> None:
        for _ in range(20):
            with Deadline(0.5, JobTimeoutException):
                busy(0.01)
        busy(0.6)

    assert in_thread(work) == []


def test_each_thread_has_its_own_time() -> None:
    def patient() -> None:
        with Deadline(60, JobTimeoutException):
            ended.extend(in_thread(short))
            busy(0.1)

    def short() -> None:
        with Deadline(0.1, JobTimeoutException):
            busy(20)

    ended: list[BaseException] = []
    assert in_thread(patient) == []
    assert [type(each) for each in ended] == [JobTimeoutException]


def test_the_main_thread_is_ended_too() -> None:
    stop = threading.Event()

    def strike() -> None:
        while not stop.wait(0.02):
            Deadline.strike()

    threading.Thread(target=strike, daemon=True).start()
    try:
        with pytest.raises(JobTimeoutException), Deadline(0.1, JobTimeoutException):
            busy(20)
    finally:
        stop.set()

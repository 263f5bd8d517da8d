"""Processes that a test leaves behind are seen, those of a parent that is gone as well."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import joblib

from tests.leftovers import left_behind, shut_down_joblib


def within_seconds(seen: Callable[[], bool]) -> bool:
    """Say whether something is so within ten seconds: a process that begins or ends is neither here nor gone."""
    deadline = time.monotonic() + 10
    while not seen() and time.monotonic() < deadline:
        time.sleep(0.02)
    return seen()


def test_a_child_is_seen_while_it_runs() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert within_seconds(lambda: child.pid in left_behind())
    child.kill()
    child.wait()
    assert child.pid not in left_behind()


def test_so_is_the_child_of_one_that_is_gone() -> None:
    shell = ["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"]
    orphan = int(subprocess.run(shell, capture_output=True, text=True, check=True).stdout)
    assert within_seconds(lambda: "sleep 60" in left_behind().get(orphan, ""))
    os.kill(orphan, signal.SIGKILL)
    assert within_seconds(lambda: orphan not in left_behind())


def test_joblibs_workers_are_ended() -> None:
    workers = set(joblib.Parallel(n_jobs=2)(joblib.delayed(os.getpid)() for _ in range(4)))
    assert workers <= left_behind().keys()
    shut_down_joblib()
    assert within_seconds(lambda: not workers & left_behind().keys())

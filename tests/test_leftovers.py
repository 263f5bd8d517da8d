"""Processes that a test leaves behind are seen, those of a parent that is gone as well."""

import os
import signal
import subprocess
import sys

import joblib
import psutil

from tests.leftovers import left_behind, shut_down_joblib


def test_a_child_is_seen_while_it_runs() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.pid in left_behind()
    child.kill()
    child.wait()
    assert child.pid not in left_behind()


def test_so_is_the_child_of_one_that_is_gone() -> None:
    shell = ["sh", "-c", "sleep 600 >/dev/null & echo $!"]
    orphan = int(subprocess.run(shell, capture_output=True, text=True, check=True).stdout)
    assert "sleep 600" in left_behind()[orphan]
    os.kill(orphan, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(orphan)] if psutil.pid_exists(orphan) else [], timeout=5)
    assert orphan not in left_behind()


def test_joblibs_workers_are_ended() -> None:
    workers = set(joblib.Parallel(n_jobs=2)(joblib.delayed(os.getpid)() for _ in range(4)))
    assert workers & left_behind().keys()
    shut_down_joblib()
    psutil.wait_procs([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], timeout=5)
    assert not workers & left_behind().keys()

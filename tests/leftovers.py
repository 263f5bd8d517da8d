"""No file of tests leaves a process behind: its children, and theirs, are gone when it is done."""

import os
import time
import uuid
from collections.abc import Iterator

import psutil
import pytest

NAME, VALUE = "CHRONOS_INTERP_TESTS", uuid.uuid4().hex
"""A variable that every process started here inherits, and keeps where the one that started it is killed."""

SERVERS = ("resource_tracker", "multiprocessing.forkserver")
"""In command lines of Python's own servers, which end with the process that they serve."""


def left_behind() -> dict[int, str]:
    """Return what this process started, or what that started, and what still runs: command lines by process id."""
    found: dict[int, str] = {}
    own = {process.pid for process in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter():
        try:
            ours = process.pid in own or (process.pid != os.getpid() and process.environ().get(NAME) == VALUE)
            if not ours or process.status() == psutil.STATUS_ZOMBIE:
                continue
            command = " ".join(process.cmdline())
            if not (process.ppid() == os.getpid() and any(server in command for server in SERVERS)):
                found[process.pid] = command[:200]
        except psutil.Error:  # another user's, or gone by now
            continue
    return found


def shut_down_joblib() -> None:
    """End the workers that joblib keeps for the next call: they would idle for five minutes."""
    from joblib.externals.loky import reusable_executor

    if reusable_executor._executor is not None:
        reusable_executor._executor.shutdown(wait=True, kill_workers=True)


@pytest.fixture(scope="module", autouse=True)
def no_process_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the last test of a file if a process outlives the file by five seconds."""
    os.environ[NAME] = VALUE
    yield
    shut_down_joblib()
    deadline = time.monotonic() + 5
    while (left := left_behind()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        psutil.Process(pid).kill()  # so that it is one file's fault and not the next one's
    assert not left, f"{request.node.name} left processes behind: {left}"

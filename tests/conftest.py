"""What holds for every test: how hypothesis searches, and that nothing is left running."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from starting import Group

# A busy machine makes no test wrong, so no example has a deadline. What fails is printed with what repeats it: the
# example itself, and `@reproduce_failure`.
settings.register_profile("dev", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

ENDS_WITH_PYTHON = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Helpers of the standard library's that live as long as the process that first needed them."""


STARTS_PROCESSES = ("test_demo.py", "test_memory.py", "test_processes.py", "test_ranks.py")


class Apart(LoadScopeScheduling):
    """Whole groups of processes start one after another in one worker, beside the quick tests: two would starve."""

    def _split_scope(self, nodeid: str) -> str:
        return "processes" if Path(nodeid.partition("::")[0]).name in STARTS_PROCESSES else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Apart:
    return Apart(config, log)


def _children() -> dict[int, str]:
    """This process's children that run, with their command lines."""
    found: dict[int, str] = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            for child in (task / "children").read_text().split():
                state = Path("/proc", child, "stat").read_text().rpartition(")")[2].split()[0]
                line = Path("/proc", child, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if state != "Z" and not any(name in line for name in ENDS_WITH_PYTHON):
                    found[int(child)] = line.strip()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


def _threads() -> set[threading.Thread]:
    """The threads that Python would wait for at its end, and a peer's own."""
    return {
        thread
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and (not thread.daemon or thread.name.startswith("decentra-"))
    }


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """A test that leaves a process or a thread behind has failed, whatever else it showed."""
    children, threads = _children(), _threads()
    yield
    left = [f"process {pid}: {line}" for pid, line in _children().items() if pid not in children]
    left += [f"thread {thread.name}" for thread in _threads() - threads]
    assert not left, f"left running: {'; '.join(left)}"


@pytest.fixture
def make_group(tmp_path: Path) -> Iterator[Callable[..., Group]]:
    """Makes groups of folders on loopback, and ends what was started in them: ``make_group(4, "secagg", …)``."""
    made: list[Group] = []

    def make(n: int, protocol: str = "secagg", **changes: object) -> Group:
        made.append(Group(tmp_path / f"group-{len(made)}", n, protocol, **changes))
        return made[-1]

    yield make
    for group in made:
        group.close()

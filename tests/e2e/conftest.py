"""End-to-end tests run the built programs; without them there is nothing to test, which is a failure."""

import pytest

from hiefleet.fleet import DISPATCHER, WORKER


@pytest.fixture(scope="session", autouse=True)
def programs_exist():
    for program in (DISPATCHER, WORKER):
        assert program.is_file(), f"{program} is not built: scripts/test builds it"


LONGEST = ("test_reload.py", "test_fifo.py", "test_dead_letters.py", "test_reload_queues.py")


def pytest_collection_modifyitems(items):
    """The longest files first: side by side, none of them is left for the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))

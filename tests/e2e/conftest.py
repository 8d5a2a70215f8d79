"""End-to-end tests run the built programs; without them there is nothing to test, which is a failure."""

import pytest

from hiefleet.fleet import DISPATCHER, WORKER


@pytest.fixture(scope="session", autouse=True)
def programs_exist():
    for program in (DISPATCHER, WORKER):
        assert program.is_file(), f"{program} is not built: scripts/test builds it"

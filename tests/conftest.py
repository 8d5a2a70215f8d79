"""For all pytest runs: the harness on the path, --match, and a bound on every test's time."""

import os
import pathlib
import signal
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "lib"))

TEST_SECONDS = int(os.environ.get("HIE_TEST_SECONDS", "240"))  # no test takes longer, set-up included


def pytest_addoption(parser):
    parser.addoption("--match", default="", help="run tests whose id contains this text")


def pytest_collection_modifyitems(config, items):
    text = config.getoption("--match")
    if not text:
        return
    kept = [item for item in items if text in item.nodeid]
    config.hook.pytest_deselected(items=[item for item in items if text not in item.nodeid])
    items[:] = kept


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    def too_late(*_):
        pytest.fail(f"no end after {TEST_SECONDS} s")

    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)

"""A plugin, `python -m pytest -p tests.without_oracle`: tests that need torch or timm are skipped without them.

For a Python that has no small build of torch. Nothing loads it by itself: elsewhere a missing oracle is an error.
"""

import importlib.util
import re
import subprocess

import pytest

# In Python's words, port's and nfjax.parity's.
MISSING = re.compile(r"(?:No module named '|needs |ImportError: |^)(torch|torchvision|timm)\b")


def pytest_configure():
    if importlib.util.find_spec("torch") or importlib.util.find_spec("timm"):
        raise pytest.UsageError("torch or timm is there, so that its tests can run; leave out -p tests.without_oracle.")


def pytest_report_header():
    return "torch and timm are not here: what needs them is skipped"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    return _skipped(report, str(report.longrepr), collector.path, 0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    error = call.excinfo.value if call.excinfo else None
    text = str(error) if isinstance(error, ImportError) else ""
    if isinstance(error, subprocess.CalledProcessError | AssertionError):  # of a process or a command with a status
        text = f"{report.capstderr}\n{error}"
    return _skipped(report, text, *item.location[:2])


def _skipped(report, text, path, line):
    found = MISSING.search(text)
    if report.failed and found:
        report.outcome = "skipped"
        report.longrepr = (str(path), line, f"needs {found[1]}")
    return report

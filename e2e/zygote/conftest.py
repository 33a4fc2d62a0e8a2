"""Fixtures: an app's folder, and zygotes that start in it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from zygote_driver import Zygote, pythons


def pytest_configure(config):
    config.addinivalue_line("markers", "every_python: runs on every CPython that is found")


def pytest_generate_tests(metafunc):
    if "python" in metafunc.fixturenames:
        everywhere = metafunc.definition.get_closest_marker("every_python")
        here = (sys.executable, ".".join(map(str, sys.version_info[:3])))
        names, versions = zip(*(pythons() if everywhere else [here]))
        metafunc.parametrize("python", names, ids=versions)


@pytest.fixture
def folder(tmp_path):
    """The app's folder: `folder(app=..., **{"gunicorn.conf": ...})` writes `<name>.py` files."""

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name.replace('__', '.')}.py").write_text(text)
        return tmp_path

    return write


@pytest.fixture
def start(python, tmp_path):
    """Starts a zygote in the app's folder."""
    started = []

    def start():
        started.append(Zygote(python, tmp_path))
        return started[-1]

    yield start
    for zygote in started:
        zygote.close()

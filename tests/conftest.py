"""For all tests: few threads, fixed seeds, no network."""

import os
import random
import socket
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is first imported

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from scene4d.video_files.pyav import NEEDED  # noqa: E402

try:
    import av  # noqa: F401
except ImportError:  # everything else must pass without it
    videos = [
        path for path in Path(__file__).parent.rglob("test_*.py") if "\nimport av\n" in path.read_text()
    ]
    collect_ignore = [str(path) for path in videos]

LOOPBACK = ("127.", "::1", "localhost")


@pytest.fixture(scope="session", autouse=True)
def few_threads():
    """Small tensors: more threads only get in each other's way, and pytest-xdist fills the cores already."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))


@pytest.fixture(autouse=True)
def seeds():
    """What a run in this process leaves in the environment would seed the strategies of later ones, in any process."""
    os.environ.pop("PL_GLOBAL_SEED", None)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)  # the fixtures of the next module come before this one


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Tests must pass offline: connecting anywhere but to this machine fails at once."""

    def guarded(name):
        connect = getattr(socket.socket, name)

        def check(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(LOOPBACK):
                raise RuntimeError(f"a test tried to reach {address}")
            return connect(self, address)

        return check

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(name))


def skipping_without_pyav():
    """Skips a test whose data are videos where PyAV is missing."""
    try:
        return (yield)
    except Exception as error:
        if NEEDED in str(error):
            pytest.skip(NEEDED)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    return (yield from skipping_without_pyav())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    return (yield from skipping_without_pyav())


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

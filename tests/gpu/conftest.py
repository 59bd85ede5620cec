"""Tests that need a GPU: `make test-gpu`, or `pytest -m gpu`. Without one each is skipped.

SCENE4D_GPU_DEVICE=cpu runs the same tests on the CPU with its backends, which finds plain mistakes without a GPU.
"""

import os
from pathlib import Path

import pytest
import torch

DEVICE = torch.device(os.environ.get("SCENE4D_GPU_DEVICE", "cuda"))
HERE = Path(__file__).parent
ERRORS = pytest.StashKey[dict[str, float]]()


def pytest_configure(config):
    config.stash[ERRORS] = {}


def pytest_collection_modifyitems(items):
    missing = DEVICE.type == "cuda" and not torch.cuda.is_available()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if missing:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the tests run: CUDA, or the CPU for a rehearsal."""
    return DEVICE


@pytest.fixture(autouse=True)
def no_tf32():
    """Float32 is compared with float32: convolutions would otherwise round to 10 bits."""
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(autouse=True)
def compiled_code_is_forgotten():
    """Dynamo compiles one function a few times only; every test has as many as it needs."""
    yield
    torch._dynamo.reset()


@pytest.fixture
def note_error(request):
    """Keeps the largest error of a kind for the table at the end."""

    def note(kind: str, error: float) -> None:
        errors = request.config.stash[ERRORS]
        errors[kind] = max(error, errors.get(kind, 0.0))

    return note


def pytest_terminal_summary(terminalreporter, config):
    errors = config.stash[ERRORS]
    if errors:
        card = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"
        terminalreporter.section(f"largest relative errors, torch {torch.__version__}, {card}")
    for kind, error in sorted(errors.items()):
        terminalreporter.write_line(f"{kind:60s} {error:.1e}")

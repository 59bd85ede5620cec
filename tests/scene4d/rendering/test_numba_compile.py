"""Kernels compile where no cache directory can be written, and follow torch's thread count."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import torch

from scene4d.rendering.numba_compile import compile_kernel, use_torch_threads


def double(values):
    for i in numba.prange(len(values)):
        values[i] *= 2


def test_compiles_without_a_cache_directory(monkeypatch, caplog):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    with caplog.at_level("INFO"):
        kernel = compile_kernel(double)
    values = np.arange(4.0)
    kernel(values)
    assert values.tolist() == [0, 2, 4, 6]
    assert "no writable cache directory" in caplog.text


def test_threads_follow_torch():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert use_torch_threads() == numba.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert use_torch_threads() == min(before, numba.config.NUMBA_NUM_THREADS)


def test_the_first_kernel_leaves_torch_its_threads():
    """Numba starts its threads at its first call, with their number for all of OpenMP; a resumed run would differ."""
    code = "import torch; from scene4d.rendering.numba_compile import use_torch_threads as use; "
    code += "print(torch.get_num_threads(), use(), torch.get_num_threads())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1", "1"]

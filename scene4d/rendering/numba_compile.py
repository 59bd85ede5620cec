"""How the CPU kernels are compiled: cached on disk where a directory is writable, in memory otherwise."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable

import numba
import torch

logger = logging.getLogger(__name__)


def compile_helper(function: Callable) -> Callable:
    """Decorator for what kernels call; takes off the wrapper of jaxtyping's import hook."""
    return numba.njit(error_model="numpy")(inspect.unwrap(function))


def compile_kernel(function: Callable) -> Callable:
    """Decorator: compiles `function` with numba (parallel, cached) at its first call.

    A package installed where neither its own folder nor the user's cache can be written still works;
    it then compiles anew (about ten seconds) in every process.
    """
    function = inspect.unwrap(function)
    try:
        return numba.njit(parallel=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # numba: "cannot cache function ...: no locator available"
        logger.info("no writable cache directory for numba, %s is compiled in memory", function.__name__)
        return numba.njit(parallel=True, cache=False, error_model="numpy")(function)


def _available_threads() -> int:
    """Size of numba's thread pool, fixed when numba is imported."""
    return int(getattr(numba.config, "NUMBA_NUM_THREADS"))  # noqa: B009 - set at run time


def use_torch_threads() -> int:
    """Lets the kernels run on as many threads as torch does, and returns that number.

    Numba's first call starts its threads, and with them sets the number for all of OpenMP, torch included: sums in
    other orders would round otherwise from then on, and a resumed run would differ. Torch gets its number back.
    """
    wanted = torch.get_num_threads()
    threads = max(1, min(wanted, _available_threads()))
    numba.set_num_threads(threads)
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
    return threads

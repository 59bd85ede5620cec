"""Counts the bytes of the tensors that are alive while a step runs, on any device and on none."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

STATUS = Path("/proc/self/status")


class LiveMemory(TorchDispatchMode):
    """Follows every storage from the operator that makes it until nobody refers to it.

    What an operator needs inside is not seen. For a split tensor (DTensor) that is good: it finds out shapes there by
    whole tensors without data. Without data (under `FakeTensorMode`) the numbers are the same as with it.

    Attributes:
        now: Bytes that are alive.
        peak: The most that was alive at one time.
        gathered_at_peak: The part of `peak` that holds whole weights or gradients for or from other ranks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak, self.gathered_at_peak = 0, 0, 0
        self._sizes: dict[int, int] = {}
        self._gathered: dict[int, Callable[[], torch.UntypedStorage | None]] = {}

    def add(self, tensors: Iterable[object], gathering: bool = False) -> None:
        """Counts tensors that were there before, or that an operator has touched."""
        for tensor in tensors:
            if isinstance(tensor, DTensor):
                tensor = tensor._local_tensor
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage(), gathering)

    def _add(self, storage: torch.UntypedStorage, gathering: bool) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = 0
            weakref.finalize(storage, self._drop, key).atexit = False
        if gathering:
            self._gathered[key] = weakref.ref(storage)
        self._resize(key, storage.nbytes())

    def _resize(self, key: int, size: int) -> None:
        self.now += size - self._sizes[key]
        self._sizes[key] = size

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
        self._gathered.pop(key, None)

    def _look_again(self) -> None:
        """FSDP2 frees whole weights by setting the size of their storage to 0, which no operator tells."""
        for key, reference in [*self._gathered.items()]:
            storage = reference()
            size = 0 if storage is None else storage.nbytes()
            self._resize(key, size)
            if not size:
                self._gathered.pop(key)

    def __torch_dispatch__(
        self,
        operator: torch._ops.OpOverload,
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        self._look_again()
        output, kwargs = operator(*args, **(kwargs or {})), kwargs or {}
        if operator.namespace == "fsdp" or operator.name() == "aten::copy_":  # the latter on a single rank
            self.add(tree_iter((output, kwargs.get("out"))), gathering=True)
        else:
            self.add(tree_iter(output))
        if self.now > self.peak:
            self.peak, self.gathered_at_peak = self.now, sum(self._sizes[key] for key in self._gathered)
        return output


class AllocatedMemory(TorchDispatchMode):
    """Asks the C library after every operator how many bytes are allocated; for CPU tensors, on Linux with glibc.

    This is independent of `LiveMemory`: it also sees what libraries allocate, and knows nothing of tensors. Memory
    that was freed and is kept for later does not count, as it does in the resident memory of a process.

    Attributes:
        peak: The most that was allocated after any operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0

    def __torch_dispatch__(
        self,
        operator: torch._ops.OpOverload,
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        output = operator(*args, **(kwargs or {}))
        self.peak = max(self.peak, allocated_bytes())
        return output


class _Mallinfo(ctypes.Structure):
    """glibc's `struct mallinfo2` (man 3 mallinfo)."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]  # fmt: skip


@cache
def _mallinfo2() -> Callable[[], _Mallinfo]:
    function = ctypes.CDLL(None).mallinfo2
    function.restype = _Mallinfo
    return function


def allocated_bytes() -> int:
    """Bytes that this process has allocated and not freed.

    Raises:
        AttributeError: The C library is not glibc 2.33 or newer.
    """
    found = _mallinfo2()()
    return found.uordblks + found.hblkhd


def reset_resident_peak() -> int:
    """Forgets the peak of `resident_peak` and returns the bytes that are resident now; Linux with glibc, 0 elsewhere.

    Memory that was freed is given back before.
    """
    if not STATUS.exists():
        return 0
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # man 5 proc
    return _status("VmRSS")


def resident_peak() -> int:
    """The most bytes that were resident since `reset_resident_peak`, also inside operators; 0 where nobody tells."""
    return _status("VmHWM") if STATUS.exists() else 0


def _status(name: str) -> int:
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

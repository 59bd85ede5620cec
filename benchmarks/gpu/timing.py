"""Seconds and memory of calls on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.live_memory import reset_resident_peak, resident_peak

AHEAD = 40_000_000  # cycles, about 20 ms


@dataclass(frozen=True)
class Timing:
    """What a call takes.

    Attributes:
        seconds: Median of the repetitions, by the device's clock.
        host: Seconds until the call returned, while the device was still busy; above `seconds` the host is too slow.
        first: Seconds of the first warm-up, compilation included.
        peak: Bytes at the most, over all that was allocated; on a CPU, of the process's resident memory.
        above: Bytes at the most above what was there before the call.
    """

    seconds: float
    host: float
    first: float
    peak: int
    above: int


def timed(
    call: Callable[[int], object],
    device: torch.device,
    repeats: int = 10,
    warm_ups: int = 2,
    ahead: bool = False,
    limit: float = 0.5,
) -> Timing:
    """Times a call.

    Args:
        call: Gets its number, so that it can take turns among inputs.
        device: Where it runs.
        repeats: Repetitions that count, fewer (at least 3) if they would take more than `limit`.
        warm_ups: Calls before.
        ahead: Whether the device is kept busy until the host has issued all calls, so that only the device's own time
            counts, as in a captured graph.
        limit: Seconds.
    """
    first = each = 0.0
    for number in range(warm_ups):
        start = time.perf_counter()
        call(number)
        synchronize(device)
        each = time.perf_counter() - start
        first = first or each
    repeats = max(min(repeats, int(limit / max(each, 1e-9))), min(3, repeats))
    before = _reset_peak(device)
    seconds, host = _events(call, repeats, ahead) if device.type == "cuda" else _clock(call, repeats)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else resident_peak()
    return Timing(median(seconds), host, first, peak, peak - before)


def _events(call: Callable[[int], object], repeats: int, ahead: bool) -> tuple[list[float], float]:
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    if ahead:
        torch.cuda._sleep(AHEAD)
    start = time.perf_counter()
    events[0].record()
    for number, event in enumerate(events[1:]):
        call(number)
        event.record()
    host = (time.perf_counter() - start) / repeats
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in zip(events, events[1:])], host


def _clock(call: Callable[[int], object], repeats: int) -> tuple[list[float], float]:
    seconds = []
    for number in range(repeats):
        start = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - start)
    return seconds, median(seconds)


def _reset_peak(device: torch.device) -> int:
    if device.type != "cuda":
        return reset_resident_peak()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def synchronize(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()

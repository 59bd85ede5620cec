"""Which strategies of Lightning train as one."""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from callbacks.fsdp2 import FSDP2

SUPPORTED = ("auto", "ddp", "fsdp2")  # and the variants of ddp


def refuse_strategy(strategy: str | Strategy) -> None:
    """Refuses strategies whose ranks would train apart, and those that nobody has tried.

    Raises:
        ValueError: The strategy is another one than those of one device, of ddp, or `FSDP2`; says which work.
    """
    if isinstance(strategy, str):
        supported, name = strategy.startswith(SUPPORTED), repr(strategy)
    else:
        supported = isinstance(strategy, (SingleDeviceStrategy, DDPStrategy, FSDP2))
        name = type(strategy).__name__
    if not supported:
        raise ValueError(f"trainer.strategy is {name}, which is not supported; use auto, ddp or fsdp2")

"""Strategies whose ranks would train apart are refused."""

import pytest
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from callbacks import FSDP2
from callbacks.strategies import refuse_strategy


@pytest.mark.parametrize("strategy", ["auto", "ddp", "ddp_find_unused_parameters_true", "ddp_spawn",
                                      "fsdp2", DDPStrategy(), SingleDeviceStrategy(), FSDP2()])  # fmt: skip
def test_strategies_that_train_as_one_are_taken(strategy):
    refuse_strategy(strategy)


@pytest.mark.parametrize("strategy, name", [
    ("fsdp", "'fsdp'"), ("deepspeed_stage_2", "'deepspeed_stage_2'"), ("xla", "'xla'"),
    (ModelParallelStrategy(), "ModelParallelStrategy"),
])  # fmt: skip
def test_other_strategies_are_refused(strategy, name):
    with pytest.raises(ValueError) as error:
        refuse_strategy(strategy)
    assert str(error.value) == f"trainer.strategy is {name}, which is not supported; use auto, ddp or fsdp2"

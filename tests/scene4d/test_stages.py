import pytest

from scene4d.stages import Stage, accumulated_batches, check_stages


def test_the_paper_fits():
    check_stages([Stage(4000, frames=29, batch_size=2, lr=1e-4, warmup_steps=1000), Stage(6000, frames=61)])
    assert accumulated_batches(96, ranks=48, batch_size=2) == 1
    assert accumulated_batches(96, ranks=8, batch_size=1) == 12


@pytest.mark.parametrize("stages, line", [
    ([Stage(0)], "stages: stage 1 ends at step 0, it must end behind step 0"),
    ([Stage(5), Stage(5)], "stages: stage 2 ends at step 5, it must end behind step 5"),
    ([Stage(5), Stage(8, warmup_steps=3)], "stages: stage 2 has 3 steps, warmup_steps must be fewer, is 3"),
    ([Stage(5, batch_size=0)], "stages: stage 1: batch_size must be positive, is 0"),
    ([Stage(5, lr=-1.0)], "stages: stage 1: lr must be positive, is -1.0"),
    ([Stage(5, frames=30)], "stages: stage 1: .*30.*"),
])  # fmt: skip
def test_impossible_stages_are_named(stages, line):
    with pytest.raises(ValueError, match=line):
        check_stages(stages)


@pytest.mark.parametrize("size, ranks, batch", [(96, 5, 2), (2, 4, 1), (0, 1, 1)])
def test_an_impossible_global_batch_is_named(size, ranks, batch):
    with pytest.raises(
        ValueError, match=f"a global batch of {size} is no multiple of {ranks} ranks x batch_size {batch}"
    ):
        accumulated_batches(size, ranks, batch)

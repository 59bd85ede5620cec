"""The data of both stages at full size: what the network accepts, shares, and static scenes that are repeated."""

from random import Random

import pytest

from datamodules.selection import Extent
from lightning_modules.from_config import training_parser


def data_of(stage):
    config = training_parser().parse_args(["--config", f'{{"data": "configs/data/vggt_1b_{stage}.yaml"}}', "--config",
                                           f"configs/vggt_1b/reconstruction_{stage}.yaml"])  # fmt: skip
    parser = training_parser()
    return parser.instantiate(config).data


@pytest.mark.parametrize(("stage", "timesteps"), [("static", 1), ("dynamic", 4)])
def test_the_data_of_a_stage(stage, timesteps):
    data = data_of(stage)
    assert all(side % 14 == 0 for side in data.size)
    weights = {source.name: source.weight for source in data.train}
    if stage == "static":
        assert len(set(weights.values())) == 1
    else:
        assert weights["kubric"] == sum(weights.values()) / 2
    for source in data.train:
        for frames in (1, 24):  # a still scene, a moving one; without any depth
            found = source.selection.select(Extent("scene", 10, frames), Random(0))
            assert len(found.frames) == timesteps and len(found.views) == 8
            assert found.reference[:4].all() and not found.reference[4:].any()
            assert len(set(found.frames)) == (1 if frames == 1 else timesteps)

"""Views split over ranks: attention, the network and whole trainings equal those of one process."""

import json

import pytest
from rank_processes import ROOT, run_ranks
from test_sharded_training import case, found, train

from callbacks import FSDP2

slow = pytest.mark.slow  # processes import everything
STEPS = 10
TOLERANCE = {"float64": 1e-13, "float32": 1e-6, "bfloat16": 3e-2}


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, tmp_path_factory):
    """What `view_cases.py` finds on so many ranks: of every rank errors of attention and networks, refusals, FLOPs."""
    folder = tmp_path_factory.mktemp("views")
    run_ranks(request.param, folder, [str(ROOT / "tests/view_cases.py"), str(folder)])
    return json.loads((folder / "found.json").read_text())


@slow
def test_attention_is_that_of_one_process(ranks):
    """Outputs and gradients of every rank, as shares of the largest value, against a mask in float64."""
    for attention, *_ in ranks:
        assert len(attention) == 12
        for name, error in attention.items():
            dtype = next((dtype for dtype in TOLERANCE if dtype in name), "float32")
            assert error < TOLERANCE[dtype], name


@slow
def test_the_network_is_that_of_one_process(ranks):
    """Losses, gradients averaged over ranks, and samples; names of weights stay."""
    for _, network, *_ in ranks:
        assert len(network) == 4
        for name, result in network.items():
            assert max(result["loss"], result["gradients"]) < 1e-6 and result["sample"] < 1e-5, name
            assert result["names"]


@slow
def test_what_cannot_be_split_is_refused_in_one_line(ranks):
    count = len(ranks)
    for *_, refused, _ in ranks:
        assert refused["one view"].startswith(f"a grid of 1 view cannot be split over the {count} ranks")
        assert refused["views"].startswith(
            f"a grid of {count + 1} views cannot be split over the {count} ranks"
        )
        assert refused["times"].startswith(f"3 latent frames per view are no multiple of the {count} ranks")
        assert (
            "views is" in refused["sequential"] and "with Sequential cannot be split" in refused["sequential"]
        )
        assert "the views of Linear cannot be split" in refused["linear"]
        assert "attention backend 'masked' takes whole grids" in refused["masked"]
        assert "24 tokens are not" in refused["tokens"]
        assert not any("\n" in text for text in refused.values())


@slow
def test_ranks_share_the_work(ranks):
    assert [flops for *_, flops in ranks] == [1.0] * len(ranks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Trainings with clipping, accumulation, averages, selective checkpointing and a sample; on 2 ranks compiled."""
    folder = tmp_path_factory.mktemp("view_ranks")
    more = {"checkpointing": "selective", "sampled": True}
    train(1, folder, case("one", "diffusion", "auto", STEPS, **more))
    for ranks in (2, 4):
        split = case(f"views_{ranks}", "diffusion", "fsdp2", STEPS, views=2, compile=ranks == 2, **more)
        train(ranks, folder, split)
    return folder


@slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_training_is_that_of_one_process(folder, ranks):
    one, many = found(folder, "one"), found(folder, f"views_{ranks}")
    assert len(one["losses"]) == STEPS and len(one["sample"]) > 100
    assert many["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert many["averages"] == pytest.approx(one["averages"], rel=1e-5)
    assert many["sample"] == pytest.approx(one["sample"], abs=1e-4)


@slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_figures_are_those_of_one_process(folder, ranks):
    """Ranks that share a sample do not make it weigh more."""
    one, many = found(folder, "one")["figures"], found(folder, f"views_{ranks}")["figures"]
    assert {"train/loss", "train/loss_s"} <= one.keys()
    assert many == pytest.approx(one, rel=1e-5)


@slow
def test_other_modules_are_refused(tmp_path):
    with pytest.raises(AssertionError, match="views is 2, but the views of .* cannot be split over ranks"):
        train(2, tmp_path, case("no", "reconstruction", "fsdp2", 1, views=2))


def test_the_number_of_ranks_must_be_a_multiple():
    strategy = FSDP2(views=2)
    strategy.num_nodes, strategy.parallel_devices = 1, [None] * 3
    with pytest.raises(
        ValueError, match="trainer.strategy: views 2 must divide the number of ranks, which is 3"
    ):
        strategy.setup_environment()
    with pytest.raises(ValueError, match="views must be at least 1, got 0"):
        FSDP2(views=0)

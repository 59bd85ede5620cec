"""The estimate for many GPUs: memory against real ranks, traffic and FLOPs against arithmetic."""

import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from benchmarks.architectures import cost
from benchmarks.dry_step import Plan, dry_step
from benchmarks.live_memory import AllocatedMemory, LiveMemory, allocated_bytes
from benchmarks.measured_memory import measure
from benchmarks.scaling import main
from benchmarks.traffic import Collective, Rates
from benchmarks.training_setup import RELEASED, Changes, read_setup

STAGE1 = "configs/small/diffusion_stage1.yaml"
SMALL = Changes(views=2, frames=5, batch=1)
WIDE = """
config: {base}
model.init_args.network.init_args.num_layers: 2
model.init_args.network.init_args.num_attention_heads: 6
model.init_args.network.init_args.ffn_dim: 1536
"""
HALF = """
trainer.precision: bf16-mixed
model.init_args.network.init_args.dtype: bfloat16
"""


pytestmark = pytest.mark.filterwarnings("ignore:FSDP2-wrapped", "ignore:Mismatch dtype")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "x.yaml"
    path.write_text(f"config: {ROOT}/{STAGE1}\nmodel.init_args.network.init_args.num_layers: 3\n")
    return read_setup([str(path)], SMALL)


def test_live_memory_follows_every_storage():
    memory = LiveMemory()
    with memory:
        a = torch.zeros(1000)
        b = a[:10] + 1
        view = a.view(10, 100)
        assert memory.now == 4040
        del a
        c = torch.zeros(2000)
        del view
        torch.zeros(1)
    assert (memory.now, memory.peak) == (8040, 12040)
    assert len(b) + len(c) == 2010


def test_allocated_memory_sees_the_same():
    before, memory = allocated_bytes(), AllocatedMemory()
    with memory:
        x = torch.zeros(10**7)
        del x
    assert memory.peak - before == pytest.approx(4e7, abs=1e5)


def test_every_rank_holds_its_part(setup):
    one, four = (dry_step(setup, setup.grid, Plan("fsdp2", n)) for n in (1, 4))
    network = setup.network()
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    steps = 4 * len([p for p in network.parameters() if p.requires_grad])  # AdamW's counters
    assert one.gradients == 4 * trained and one.optimizer == 12 * trained + steps
    assert one.parameters - setup.autoencoder == pytest.approx(
        4 * sum(p.numel() for p in network.parameters()), rel=1e-3
    )
    assert four.gradients == trained
    assert four.parameters - setup.autoencoder == pytest.approx(
        (one.parameters - setup.autoencoder) / 4, rel=0.01
    )
    ddp = dry_step(setup, setup.grid, Plan("ddp", 4))
    assert (ddp.gradients, ddp.buckets, ddp.gathered) == (4 * trained, 4 * trained, 0)
    assert four.peak < one.peak


def test_traffic_is_that_of_the_formula(setup):
    network = setup.network()
    blocks = sum(p.numel() for block in network.blocks for p in block.parameters())
    root = sum(p.numel() for p in network.parameters()) - blocks
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    found = {"all-gather": 0, "reduce-scatter": 0, "all-reduce": 0}
    for x in dry_step(setup, setup.grid, Plan("fsdp2", 4)).collectives:
        found[x.kind] += x.size
        assert x.ranks == (0, 1, 2, 3)
    # blocks are gathered for the forward and the backward pass, the root once
    assert found["all-gather"] == pytest.approx(4 * (2 * blocks + root), rel=0.02)
    assert found["reduce-scatter"] >= 4 * trained  # parts are padded
    assert found["reduce-scatter"] == pytest.approx(4 * trained, rel=0.01) and not found["all-reduce"]
    (ddp,) = dry_step(setup, setup.grid, Plan("ddp", 4)).collectives
    assert ddp == Collective("all-reduce", 4 * trained, (0, 1, 2, 3))
    assert not dry_step(setup, setup.grid, Plan("ddp", 1)).collectives


def test_copies_of_the_weights_sum_gradients_among_themselves(setup):
    split, copies = (dry_step(setup, setup.grid, Plan("fsdp2", 8, n)) for n in (1, 2))
    ranks = {
        kind: {x.ranks for x in copies.collectives if x.kind == kind} for kind in ("all-gather", "all-reduce")
    }
    assert ranks == {"all-gather": {(0, 1, 2, 3)}, "all-reduce": {(0, 4)}}
    assert copies.gradients == 2 * split.gradients
    with pytest.raises(ValueError, match="8 GPUs cannot hold 3 copies"):
        Plan("fsdp2", 8, 3)


def test_views_over_ranks_halve_the_activations_and_exchange_tokens(setup):
    whole, split = (dry_step(setup, setup.grid, Plan("fsdp2", 4, views=n)) for n in (1, 2))
    assert split.kept == whole.kept and split.flops == pytest.approx(whole.flops / 2, rel=0.01)
    assert split.activations == pytest.approx(whole.activations / 2, rel=0.1)
    exchanged = [x for x in split.collectives if x.kind == "all-to-all"]
    config, latents = setup.network().base.config, setup.grid.latents(1)
    heads = (
        config.num_attention_heads * latents.numel() // config.patch_size[1] ** 2 // 2
    )  # of the tokens of a rank
    forward, backward = (4 * (k * heads * config.attention_head_dim + heads) for k in (4, 8))
    assert [x.size for x in exchanged] == 3 * [forward] + 3 * [backward]
    assert {x.ranks for x in exchanged} == {(0, 1)} and exchanged[0].sent == forward / 2
    # the result of the forward pass is put together again
    (gathered,) = [x for x in split.collectives if x.kind == "all-gather" and x.ranks == (0, 1)]
    assert gathered.size == 4 * setup.grid.latents(setup.network().channels).numel()
    with pytest.raises(ValueError, match="4 GPUs cannot be grouped by 3"):
        Plan("fsdp2", 4, views=3)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_checkpointing_trades_memory_for_computation(setup, strategy):
    none, some, full = (
        dry_step(setup, setup.grid, Plan(strategy, 2, 1, kind)) for kind in ("none", "selective", "full")
    )
    assert full.activations < some.activations < none.activations / 2
    assert none.flops == none.model_flops < some.flops < full.flops
    assert some.model_flops == full.model_flops
    with torch.device("meta"):
        assert none.model_flops == pytest.approx(cost(setup.network(), setup.grid).step, rel=0.02)


def test_gradients_of_earlier_batches_are_alive(setup):
    one, two = (dry_step(setup, setup.grid, Plan("ddp", 2, 1, "full", n)) for n in (1, 2))
    assert two.kept == one.kept and two.peak - one.peak >= 0
    assert two.collectives == one.collectives


def test_rates():
    rates = Rates(peak=100, efficiency=0.5, gpus_per_node=2, within_node=100, between_nodes=10)
    assert rates.compute_seconds(1e14) == 2
    size = 10**9

    def seconds(kind, *ranks):
        return rates.communication_seconds([Collective(kind, size, ranks)])

    assert seconds("all-gather", 0, 1) == pytest.approx(0.5 / 100)  # half comes from the other
    assert seconds("all-reduce", 0, 1) == pytest.approx(2 * 0.5 / 100)
    assert seconds("reduce-scatter", 0, 1, 2, 3) == pytest.approx(
        0.5 / 20
    )  # half from the other node, by two adapters
    assert seconds("all-reduce", 0, 2) == pytest.approx(2 * 0.5 / 10)  # by one
    assert seconds("all-to-all", 0, 1) == pytest.approx(0.5 / 100)
    assert seconds("all-to-all", 0, 1, 2, 3) == pytest.approx(0.5 / 10)  # every rank by its own


def test_released_autoencoders():
    more = dict(
        base_dim=160, decoder_base_dim=256, z_dim=48, is_residual=True, in_channels=12, out_channels=12, patch_size=2,
        latents_mean=[0.0] * 48, latents_std=[1.0] * 48,
    )  # fmt: skip
    with torch.device("meta"):
        for channels, settings in ((16, {}), (48, more)):
            built = AutoencoderKLWan(**settings)
            assert sum(p.numel() for p in built.parameters()) == RELEASED[channels][1]


def test_the_table_of_a_training_in_stages(tmp_path, caplog):
    """48 GPUs, on the network of the paper's training with two blocks: 2 stages x 2 strategies."""
    config = tmp_path / "x.yaml"
    config.write_text(
        "config: configs/wan/wan2.1_14b.yaml\nmodel.init_args.network.init_args.num_layers: 2\n"
    )
    config.write_text(config.read_text().replace("configs/", f"{ROOT}/configs/"))
    with caplog.at_level("INFO"):
        main(["--config", str(config), "--gpus", "48", "--json", str(tmp_path / "x.json")])
    rows = [line for line in caplog.messages if line.startswith(("| 1:", "| 2:"))]
    assert [row.split(" | ")[:4] for row in rows] == [
        [f"| {stage}", strategy, "full", "2"]
        for stage in ("1: 8 x 29", "2: 8 x 61")
        for strategy in ("ddp", "fsdp2")
    ]
    assert "times are estimates" in caplog.text
    ddp, fsdp, *_ = json.loads((tmp_path / "x.json").read_text())
    assert (ddp["steps"], fsdp["steps"]) == (4000, 4000) and fsdp["mfu"] <= 0.4
    assert fsdp["step"]["optimizer"] == pytest.approx(ddp["step"]["optimizer"] / 48, rel=0.01)
    assert fsdp["computing"] == pytest.approx(2 * fsdp["step"]["flops"] / (312e12 * 0.4))
    # FSDP2 sums after each of two batches, DDP once
    assert math.isclose(ddp["communication"], Rates().communication_seconds(
        Collective(x["kind"], x["size"], tuple(x["ranks"])) for x in ddp["step"]["collectives"]))  # fmt: skip
    assert math.isclose(fsdp["communication"], 2 * Rates().communication_seconds(
        Collective(x["kind"], x["size"], tuple(x["ranks"])) for x in fsdp["step"]["collectives"]))  # fmt: skip


def test_what_cannot_be_said_is_one_line():
    with pytest.raises(SystemExit, match="does not say the grids' views, frames, height, width, batch"):
        main(["--config", "configs/vggt_1b/reconstruction_static.yaml"])
    with pytest.raises(SystemExit, match="a global batch of 96 is no multiple of 7 ranks"):
        main(["--config", "configs/wan/wan2.1_1.3b.yaml", "--gpus", "7"])
    with pytest.raises(SystemExit, match="2 GPUs cannot be grouped by 4"):
        main(["--config", STAGE1, "--gpus", "2", "--views", "4", "--strategies", "fsdp2"])
    for name in ("--gpus", "--replicas", "--views"):
        with pytest.raises(SystemExit):
            main(["--config", STAGE1, name, "0"])


def test_a_reconstruction(tmp_path):
    config = tmp_path / "x.yaml"
    config.write_text(
        f"config: {ROOT}/configs/vggt_1b/reconstruction_dynamic.yaml\n"
        "model.init_args.network.init_args.depth: 2\nmodel.init_args.network.init_args.embedder_depth: 1\n"
        "model.init_args.network.init_args.layers: [0, 0, 1, 1]\n"
    )
    setup = read_setup([str(config)], Changes(views=2, frames=2, height=56, width=56, batch=1))
    step = dry_step(setup, setup.grid, Plan("fsdp2", 8))
    trained = sum(p.numel() for p in setup.network().parameters() if p.requires_grad)
    assert step.gradients == pytest.approx(4 * trained / 8, rel=0.01) and step.model_flops == step.flops > 0


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize(
    "half, strategies, views", [(False, ["ddp", "fsdp2"], 1), (True, ["fsdp2"], 1), (False, ["fsdp2"], 2)]
)
def test_memory_is_that_of_real_ranks(tmp_path, half, strategies, views):
    """Estimated within 15% on 1, 2 and 4 gloo ranks; weights, gradients and optimizer exactly."""
    config = tmp_path / "x.yaml"
    text = WIDE.format(base=f"{ROOT}/{STAGE1}") + (HALF if half else "")
    config.write_text(text.replace("heads: 6", "heads: 3") if half else text)
    kinds = ["full"] if half else ["none", "full"]
    found = measure([str(config)], SMALL, strategies, kinds, views=views)
    assert len(found) == 3 * len(strategies) * len(kinds)
    for x in found:
        assert x.kept == x.estimated_kept, x
        assert abs(x.error) < 0.15, x

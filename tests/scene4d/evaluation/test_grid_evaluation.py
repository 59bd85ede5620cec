"""Scores of generated grids: the same for any batch size and any number of processes; references that must lose."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scene4d.diffusion.rectified_flow import RectifiedFlow
from scene4d.distributed.agreement import any_rank
from scene4d.evaluation.grids import GridEvaluation
from scene4d.networks import PatchAutoencoder, WanGridTransformer
from scene4d.pipelines import GridGenerator, Sampling
from scene4d.types import SceneBatch

ROOT = Path(__file__).parents[3]


def generator() -> GridGenerator:
    torch.manual_seed(0)
    network = WanGridTransformer(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, text_dim=8, freq_dim=16, ffn_dim=32,
        num_layers=1, patch_size=(1, 1, 1),
    )  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    autoencoder = PatchAutoencoder(channels=4, width=64, depth=1).eval()
    return GridGenerator(network, autoencoder, RectifiedFlow("data"), Sampling(2))


def scene(k: int, source: str, still: bool = False) -> SceneBatch:
    images = torch.rand(1, 2, 5, 3, 24, 24, generator=torch.Generator().manual_seed(k))
    images = images[:, :, :1].expand_as(images) if still else images
    return SceneBatch(
        images=images, cameras=None, frame_times=torch.zeros(1, 5), reference=torch.zeros(1, 2, 5, dtype=torch.bool),
        source=[source], keys=[f"scene{k}"],
    )  # fmt: skip


def joined(scenes: list[SceneBatch]) -> SceneBatch:
    return replace(
        scenes[0], images=torch.cat([s.images for s in scenes]), reference=torch.cat([s.reference for s in scenes]),
        frame_times=torch.cat([s.frame_times for s in scenes]), source=[s.source[0] for s in scenes],
        keys=[s.keys[0] for s in scenes],
    )  # fmt: skip


def rows_of_a_rank(rank: int, ranks: int, batch_size: int) -> list[str]:
    """Three moving scenes and one still one; as the data module does it, short ranks repeat their last scene."""
    evaluation = GridEvaluation(baselines=False)
    evaluation.start(torch.device("cpu"))
    pipeline = generator()
    for source, count, first in (("objects", 3, 0), ("static", 1, 10)):
        scenes = [scene(first + k, source, still=source == "static") for k in range(count)]
        own = scenes[rank::ranks] or scenes[-1:]
        own += own[-1:] * (-(-count // ranks) - len(own))
        for start in range(0, len(own), batch_size):
            evaluation.add(pipeline, joined(own[start : start + batch_size]))
    return [f"{r.source} {r.method} {r.score} {r.value:.4f} {r.count}" for r in evaluation.compute()]


def test_pictures_that_are_nan_are_told(caplog):
    """One scene of three: the others keep their mean, but nobody overlooks it."""
    evaluation, pipeline = GridEvaluation(baselines=False), generator()
    evaluation.start(torch.device("cpu"))
    for k in range(3):
        if k == 2:
            next(pipeline.network.parameters()).data.fill_(torch.nan)
        evaluation.add(pipeline, scene(k, "objects"))
    rows = {(row.method, row.score): row.count for row in evaluation.compute()}
    assert rows["sample", "psnr"] == 2
    assert "objects: what 'sample' made of 1 of 3 scenes holds NaN" in caplog.text


def main(rank: int, ranks: int, port: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=ranks)
    assert any_rank(rank == 1, torch.device("cpu")) and not any_rank(False, torch.device("cpu"))
    for batch_size in (1, 4):
        sys.stdout.write("\n".join(rows_of_a_rank(rank, ranks, batch_size)) + "\n---\n")
    torch.distributed.destroy_process_group()


def test_scores_do_not_depend_on_batches_or_ranks(free_port):
    alone = rows_of_a_rank(0, 1, 4)
    assert rows_of_a_rank(0, 1, 1) == alone
    command = [sys.executable, __file__]
    runs = [
        subprocess.Popen(
            [*command, str(rank), "2", str(free_port)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for rank in range(2)
    ]  # fmt: skip
    for run in runs:
        printed, _ = run.communicate(timeout=120)
        assert run.returncode == 0
        first, second, _ = printed.split("\n---\n")
        assert first.splitlines() == alone and second.splitlines() == alone
    counts = {tuple(row.split()[:3]): int(row.split()[-1]) for row in alone}
    assert counts["objects", "sample", "psnr"] == 3 and counts["static", "sample", "psnr"] == 1
    assert counts["objects", "sample_other_reference", "psnr"] == 2  # not the first scene, whose video it is
    assert ("static", "sample_other_reference", "psnr") not in counts


def test_only_what_changes_is_sampled_again(monkeypatch):
    evaluation, pipeline, sampled = GridEvaluation(), generator(), []
    predictions = GridGenerator.predictions
    monkeypatch.setattr(GridGenerator, "predictions", lambda *x: sampled.append(x) or predictions(*x))
    evaluation.start(torch.device("cpu"))
    evaluation.add(pipeline, scene(0, "static", still=True))
    assert len(sampled) == 1
    evaluation.add(pipeline, scene(1, "static", still=True))  # has another scene's video
    assert len(sampled) == 3


@pytest.mark.parametrize("baselines", [True, False])
def test_methods_and_pictures(baselines):
    evaluation = GridEvaluation(white_background=["objects"], baselines=baselines)
    evaluation.start(torch.device("cpu"))
    evaluation.add(generator(), joined([scene(0, "objects"), scene(1, "objects")]))
    methods = {row.method for row in evaluation.compute()}
    generated = {"sample", "one_step", "sample_static_reference", "sample_other_reference"}
    copies = {"copy_freeze_time", "copy_fixed_view", "blend", "blurred_copy", "autoencoder"}
    assert methods == (generated | copies if baselines else generated)
    assert evaluation.pictures.keys() == {"objects"}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])


def test_samples_with_fewer_references_are_scored_beside_the_others(monkeypatch):
    evaluation, pipeline = GridEvaluation(baselines=False, with_less=["fixed_view", "none"]), generator()
    evaluation.start(torch.device("cpu"))
    seen, sample = [], type(pipeline).__call__
    monkeypatch.setattr(
        type(pipeline), "__call__", lambda self, batch: seen.append(batch.reference) or sample(self, batch)
    )
    evaluation.add(pipeline, scene(0, "objects"))
    rows = {row.method for row in evaluation.compute()}
    assert {"sample", "sample_fixed_view", "sample_no_reference"} <= rows and "sample_freeze_time" not in rows
    assert [int(mask.sum()) for mask in seen[-2:]] == [5, 0]
    with pytest.raises(ValueError, match=r"with_less names \['both'\]"):
        GridEvaluation(with_less=["both"])

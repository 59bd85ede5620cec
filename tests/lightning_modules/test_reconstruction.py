import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lightning_modules.gaussian_reconstruction import GaussianReconstruction, freeze_except
from lightning_modules.geometry_pretraining import GeometryPretraining, static_scenes
from lightning_modules.novel_view_evaluation import NovelViewEvaluation
from scene4d.geometry.cameras import pixel_rays, scale_cameras
from scene4d.networks.vggt import ReconstructionNetwork
from scene4d.types import Cameras, SceneBatch

SIZE = 32
TINY = {
    "image_size": SIZE, "patch_size": 8, "dim": 16, "depth": 4, "heads": 2, "embedder_depth": 1,
    "registers": 1, "layer_scale": 1.0, "camera_depth": 1, "camera_heads": 2, "camera_iterations": 2,
    "layers": [0, 1, 2, 3], "head_channels": [8, 8, 8, 8], "head_features": 8, "head_hidden": 8,
    "image_skip": 4, "point_head": False, "match_views": True, "match_width": 16,
}  # fmt: skip


def make_network():
    torch.manual_seed(0)
    return ReconstructionNetwork(**TINY)


def make_batch(b=1, inputs=3, targets=2, t=2, wall_depth=2.0, endless=False):
    """Cameras turning around z = 2 before a textured wall, endless or with a white, unknown border."""
    views = inputs + targets
    c2w = torch.eye(4).repeat(b, views, 1, 1)
    for v in range(views):
        angle = torch.tensor(0.08 * v)
        turn = torch.tensor([[angle.cos(), 0, -angle.sin()], [0, 1, 0], [angle.sin(), 0, angle.cos()]])
        c2w[:, v, :3, :3] = turn
        c2w[:, v, :3, 3] = torch.tensor([0, 0, 2.0]) - turn @ torch.tensor([0, 0, 2.0])
    intrinsics = torch.tensor([[40.0, 0, SIZE / 2], [0, 40.0, SIZE / 2], [0, 0, 1]]).repeat(b, views, 1, 1)
    directions = torch.einsum("bvij,bvhwj->bvhwi", c2w[..., :3, :3], pixel_rays(intrinsics, SIZE, SIZE))
    depth = (wall_depth - c2w[..., None, None, 2, 3]) / directions[..., 2]
    points = c2w[..., None, None, :3, 3] + depth[..., None] * directions
    wall = (points[..., :2].abs().amax(-1) < 0.55) | endless
    color = 0.5 + 0.4 * torch.sin(
        torch.stack([7 * points[..., 0], 9 * points[..., 1], 5 * points.sum(-1)], -1)
    )
    images = torch.where(wall[..., None], color, torch.ones(())).permute(0, 1, 4, 2, 3)
    reference = torch.zeros(b, views, t, dtype=torch.bool)
    reference[:, :inputs] = True
    order = [0, views - 1, *range(1, views - 1)][:views]  # targets lie inside the span of the inputs
    return SceneBatch(
        images=images[:, order, None].expand(-1, -1, t, -1, -1, -1).contiguous(),
        cameras=Cameras(c2w, intrinsics)[:, order],
        frame_times=torch.arange(t).expand(b, t) / 12,
        reference=reference,
        source=["objects"] * b,
        keys=[f"scene{k}" for k in range(b)],
        depths=torch.where(wall, depth, 0)[:, order, None].expand(-1, -1, t, -1, -1).contiguous(),
    )


def build(module_class=GaussianReconstruction, **settings):
    module = module_class(make_network, lambda p: torch.optim.AdamW(p, lr=3e-3), **settings)
    module.log = module.log_dict = lambda *_, **__: None
    module.configure_model()
    return module


def losses_of(module, batch, steps):
    optimizer = module.configure_optimizers()
    values = []
    for step in range(steps):
        torch.manual_seed(1)
        loss = module.training_step(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def test_geometry_training_lowers_its_loss():
    values = losses_of(build(GeometryPretraining), make_batch(), 12)
    assert values[-1] < 0.8 * values[0]


def test_every_timestep_becomes_a_normalised_static_scene():
    images, depths, cameras = static_scenes(make_batch(b=2, t=3))
    assert images.shape == (6, 3, 1, 3, SIZE, SIZE) and depths.shape == (6, 3, 1, SIZE, SIZE)
    assert torch.allclose(cameras.c2w[:, 0], torch.eye(4).expand(6, 4, 4), atol=1e-6)
    assert 0.8 < depths[depths > 0].mean() < 1.1


def test_gaussian_training_moves_only_what_is_trainable():
    module = build(trainable=["^gaussian_head", "temporal"], background_weight=0.1)
    before = {name: p.detach().clone() for name, p in module.network.named_parameters()}
    values = losses_of(module, make_batch(), 10)
    assert values[-1] < values[0]
    for name, parameter in module.network.named_parameters():
        if name.startswith("gaussian_head") or "temporal" in name:
            continue
        assert torch.equal(parameter, before[name]), name
    moved = [n for n, p in module.network.named_parameters() if not torch.equal(p, before[n])]
    assert any("gaussian_head" in n for n in moved) and any("temporal" in n for n in moved)


def test_predicted_cameras_can_be_trained_through_rendering():
    module = build(trainable=["camera_head"], use_given_cameras=False, perceptual_weight=0.0)
    module.training_step(make_batch(t=1), 0).backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in module.network.camera_head.parameters())


def test_unknown_trainable_pattern_is_named():
    with pytest.raises(ValueError, match="gaussian_haed"):
        freeze_except(make_network(), ["gaussian_haed"])


def test_batches_without_depth_or_cameras_are_named():
    batch = make_batch()
    batch.depths = None
    with pytest.raises(ValueError, match="objects"):
        build().training_step(batch, 0)
    with pytest.raises(ValueError, match="objects"):
        static_scenes(batch)


@torch.no_grad()
def test_prediction_needs_a_grid_only():
    batch = make_batch(b=2)
    batch.cameras = batch.depths = None
    result = build().predict_step(batch, 0)
    assert result.cameras.c2w.shape == (2, 5, 4, 4)
    assert result.gaussians.means.shape == (2, 2, 5 * SIZE * SIZE, 3)
    assert result.keys == ["scene0", "scene1"] and torch.equal(result.frame_times, batch.frame_times)


@torch.no_grad()
def test_evaluation_has_the_block_of_metrics_json_and_a_bound():
    module = build()
    evaluation = NovelViewEvaluation(module, module.perceptual)
    evaluation.add(make_batch(b=2))
    results = evaluation.results()
    assert results["scenes"] == 2
    for method in ("pose_free", "given_cameras", "copy_nearest", "blurred_mean", "true_depth"):
        assert set(results[method]) == {"psnr", "ssim", "perceptual"}
    assert results["rotation_deg_identity"] == pytest.approx((4 + 1) / 2 * 0.08 * 57.2958, rel=1e-3)
    json.dumps(results)


@torch.no_grad()
def test_the_bound_needs_the_true_depth():
    """Far above copying with true depth, near or below it when the depth is bent."""
    module = build(background=None)
    scores = []
    for bend in (0.0, 0.5):
        batch = make_batch(wall_depth=1.2, endless=True)
        batch.depths = batch.depths * (1 + bend * torch.linspace(-1, 1, SIZE))
        evaluation = NovelViewEvaluation(module, module.perceptual)
        evaluation.add(batch)
        scores.append({name: evaluation.results()[name]["psnr"] for name in ("true_depth", "copy_nearest")})
    assert scores[0]["true_depth"] > scores[0]["copy_nearest"] + 5
    assert scores[1]["true_depth"] < scores[0]["true_depth"] - 5


@torch.no_grad()
def test_background_is_the_colour_around_the_scene():
    images = make_batch().images
    module = build(background=None)
    assert torch.equal(module.background_of(images), torch.ones(1, 3))
    images[:, :, :, 1, [0, -1]] = images[:, :, :, 1, :, [0, -1]] = 0.25
    assert torch.allclose(module.background_of(images), torch.tensor([[1.0, 0.25, 1.0]]))
    assert torch.equal(
        build(background=(0.0, 0.0, 1.0)).background_of(images), torch.tensor([[0.0, 0.0, 1.0]])
    )


def test_refined_depth_keeps_the_gradient_of_the_predicted():
    module = build(trainable=["depth_head"], refine=True, perceptual_weight=0.0, match_weight=0.1)
    module.training_step(make_batch(t=1), 0).backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in module.network.depth_head.parameters())


@torch.no_grad()
def test_evaluation_offers_pictures():
    module = build()
    module.on_validation_epoch_start()
    module.validation_step(make_batch(b=2), 0)
    module.on_validation_epoch_end()
    assert set(module.pictures) == {"objects/scene0", "objects/scene1"}
    assert module.pictures["objects/scene0"].shape == (3, 2 * SIZE + 1, 5 * SIZE + 4)


@torch.no_grad()
def test_evaluation_does_not_depend_on_the_unit_of_length():
    module = build()
    blocks = []
    for scale in (1.0, 10.0):
        batch = make_batch()
        batch.cameras = scale_cameras(batch.cameras, torch.full((1,), scale))
        batch.depths = batch.depths * scale
        evaluation = NovelViewEvaluation(module, module.perceptual)
        evaluation.add(batch)
        blocks.append(evaluation.results())
    for name in ("given_cameras", "true_depth", "pose_free"):
        assert blocks[0][name]["psnr"] == pytest.approx(blocks[1][name]["psnr"], abs=0.05)


def test_later_weights_complete_earlier_ones(tmp_path):
    weights = make_network().state_dict()
    heads = {k: v + 1 for k, v in weights.items() if k.startswith("gaussian_head")}
    save_file(
        {k: v for k, v in weights.items() if not k.startswith("gaussian_head")}, tmp_path / "a.safetensors"
    )
    save_file(heads, tmp_path / "b.safetensors")
    paths = [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]
    loaded = build(initial_weights=paths).network.state_dict()
    assert all(torch.equal(loaded[k], heads.get(k, weights[k])) for k in weights)


def write_shards(folder):
    import webdataset as wds

    from scene4d.sample_format import SceneSample, encode_sample

    with wds.TarWriter(str(folder / "objects-000000.tar")) as sink:
        for k in range(2):
            batch = make_batch(inputs=4, targets=2, t=1)
            order = [0, 2, 3, 4, 5, 1]  # back to the order along the path
            sample = SceneSample(
                key=f"scene{k}", source="objects", fps=12.0,
                images=(batch.images[0, order].permute(0, 1, 3, 4, 2) * 255).round().byte().numpy(),
                c2w=batch.cameras.c2w[0, order].numpy(),
                intrinsics=batch.cameras.intrinsics[0, order].numpy(),
                depths=batch.depths[0, order].numpy(), depth_frames=[0],
            )  # fmt: skip
            sink.write(encode_sample(sample))
    return str(folder / "objects-*.tar")


def test_fit_from_a_config_then_validate_with_the_exported_weights(tmp_path):
    from main import main

    urls = write_shards(tmp_path)
    selection = {"class_path": "datamodules.ContextSelection",
                 "init_args": {"inputs": 3, "targets": 2, "frames": 1, "shuffle_inputs": 0.0}}  # fmt: skip
    held_out = {"class_path": "datamodules.ContextSelection",
                "init_args": {"inputs": 3, "targets": 2, "frames": 1, "random": False}}  # fmt: skip
    network = {"class_path": "scene4d.networks.vggt.ReconstructionNetwork", "init_args": TINY}
    config = {
        "seed_everything": 0,
        "model": {"class_path": "lightning_modules.GeometryPretraining", "init_args": {"network": network}},
        "data": {"class_path": "datamodules.SceneDataModule", "init_args": {
            "size": SIZE, "batch_size": 2, "num_workers": 0,
            "train": [{"name": "objects", "urls": [urls], "selection": selection}],
            "val": [{"name": "objects", "urls": [urls], "selection": held_out}]}},
        "trainer": {
            "accelerator": "cpu", "devices": 1, "max_steps": 2, "val_check_interval": 2,
            "check_val_every_n_epoch": None, "num_sanity_val_steps": 0, "logger": False,
            "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
            "default_root_dir": str(tmp_path),
            "callbacks": [{"class_path": "callbacks.WeightsExport",
                           "init_args": {"path": str(tmp_path / "geometry.safetensors"), "half": True}}]},
    }  # fmt: skip
    path = tmp_path / "geometry.yaml"
    path.write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(path)])
    assert "camera_head.token_norm.weight" in load_file(tmp_path / "geometry.safetensors")

    config["model"] = {"class_path": "lightning_modules.GaussianReconstruction", "init_args": {
        "network": network, "initial_weights": [str(tmp_path / "geometry.safetensors")]}}  # fmt: skip
    config["trainer"]["callbacks"] = [
        {"class_path": "callbacks.MetricsExport", "init_args": {"path": str(tmp_path / "metrics.json")}}
    ]
    path.write_text(yaml.safe_dump(config))
    main(["validate", "--config", str(path)])
    block = json.loads((tmp_path / "metrics.json").read_text())["reconstruction"]
    assert block["scenes"] == 2 and set(block["true_depth"]) == {"psnr", "ssim", "perceptual"}

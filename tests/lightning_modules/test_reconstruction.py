import json
from types import SimpleNamespace

import lightning as L
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from lightning_modules.gaussian_reconstruction import GaussianReconstruction
from lightning_modules.geometry_pretraining import GeometryPretraining, static_scenes
from lightning_modules.novel_view_evaluation import NovelViewEvaluation
from scene4d.geometry.cameras import camera_spread, normalise_scene, pixel_rays, scale_cameras
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
    module.trainer = SimpleNamespace(accumulate_grad_batches=1, global_step=0, world_size=1, global_rank=0)
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
        build(trainable=["gaussian_haed"])


def test_batches_without_depth_or_cameras_are_named():
    batch = make_batch()
    batch.depths = None
    with pytest.raises(ValueError, match="objects"):
        static_scenes(batch)
    batch.cameras = None
    with pytest.raises(ValueError, match="objects"):
        build().training_step(batch, 0)


def test_geometry_refuses_the_one_scene_of_a_batch_that_has_no_depth():
    batch = make_batch(b=2)
    batch.source = ["objects", "realestate"]
    batch.depths[1] = 0  # as the collation fills it
    with pytest.raises(ValueError, match=r"\['realestate'\] lack"):
        static_scenes(batch)


@pytest.mark.parametrize("refine", [False, True])
def test_scenes_without_depth_train_in_the_unit_of_the_predicted_cameras(refine):
    """Whatever their own unit is, alone and beside a scene with depth."""
    module, losses = build(refine=refine), []
    for unit in (1.0, 50.0):
        alone, mixed = make_batch(), make_batch(b=2)
        alone.depths, mixed.depths[1] = None, 0
        for batch in (alone, mixed):
            batch.cameras.c2w[-1:, :, :3, 3] *= unit
            torch.manual_seed(1)
            losses.append(module.training_step(batch, 0))
    assert torch.allclose(losses[0], losses[2], rtol=1e-3) and torch.allclose(losses[1], losses[3], rtol=1e-3)
    losses[3].backward()
    assert all(p.grad.isfinite().all() for p in module.network.gaussian_head.parameters())


def test_a_scene_with_depth_does_not_notice_one_without():
    module, batch = build(), make_batch(b=2)
    batch.depths[1] = 0
    prediction = module.network(batch.images[:, :3])
    depths, cameras = module._normalised_truth(batch, 3, prediction)
    true_depths, true_cameras, _ = normalise_scene(make_batch().depths, make_batch().cameras, 3)
    assert torch.equal(cameras.c2w[:1], true_cameras.c2w) and torch.equal(depths[:1], true_depths)
    assert not depths[1].any()
    spread = camera_spread(prediction.cameras.c2w)[1]
    assert torch.allclose(camera_spread(cameras.c2w[:, :3])[1], spread, rtol=1e-4)


def test_a_scene_without_any_unit_of_length_is_an_error():
    batch = make_batch(inputs=1)
    batch.depths = None
    with pytest.raises(ValueError, match=r"\['objects'\].*scenes \[0\].*no unit of length"):
        build().training_step(batch, 0)


@torch.no_grad()
def test_prediction_needs_a_grid_only():
    batch = make_batch(b=2)
    batch.cameras = batch.depths = None
    result = build().predict_step(batch, 0)
    assert result.cameras.c2w.shape == (2, 5, 4, 4)
    assert result.gaussians.means.shape == (2, 2, 5 * SIZE * SIZE, 3)
    assert result.keys == ["scene0", "scene1"] and torch.equal(result.frame_times, batch.frame_times)
    assert torch.equal(result.background, torch.ones(2, 3))


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


@torch.no_grad()
@pytest.mark.parametrize("unit", [1.0, 10.0])
def test_given_cameras_without_depth_are_as_far_apart_as_the_predicted_ones(unit):
    module, calls = build(refine=True), []
    reconstruct = module.reconstruct
    module.reconstruct = lambda images, cameras=None: calls.append(cameras) or reconstruct(images, cameras)
    batch = make_batch()
    batch.cameras.c2w[..., :3, 3] *= unit
    batch.depths = None
    NovelViewEvaluation(module, module.perceptual).add(batch)
    free, given = calls[0], next(cameras for cameras in calls if cameras is not None)
    assert free is None
    predicted = reconstruct(batch.images[:, : given.c2w.shape[1]]).cameras
    torch.testing.assert_close(camera_spread(given.c2w), camera_spread(predicted.c2w), rtol=1e-3, atol=1e-6)


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


def quiet_trainer(folder, **settings):
    return L.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, **settings,
    )  # fmt: skip


def test_an_untrained_head_is_refused_unless_a_checkpoint_brings_it(tmp_path):
    weights = {k: v for k, v in make_network().state_dict().items() if not k.startswith("gaussian_head")}
    save_file(weights, tmp_path / "geometry.safetensors")
    loader = DataLoader([make_batch(t=1)], batch_size=None)

    def module():
        return GaussianReconstruction(
            make_network,
            lambda p: torch.optim.AdamW(p, lr=1e-3),
            initial_weights=[str(tmp_path / "geometry.safetensors")],
        )

    plain = quiet_trainer(tmp_path, enable_checkpointing=False)
    for run in (plain.validate, plain.test, plain.predict):
        with pytest.raises(ValueError, match=r"no weights were given for gaussian_head \(\d+ tensors\);"):
            run(module(), loader)
    fit = quiet_trainer(tmp_path, max_steps=1)
    trained = module()
    with pytest.warns(UserWarning, match=r"no weights were given for gaussian_head \(\d+ tensors\):"):
        fit.fit(trained, loader, loader)  # its own validation is allowed
    fit.save_checkpoint(tmp_path / "a.ckpt")
    plain.validate(trained, loader, verbose=False)
    plain.predict(module(), loader, ckpt_path=str(tmp_path / "a.ckpt"), weights_only=False)


def test_untrained_temporal_attention_is_the_identity_and_allowed(tmp_path):
    module = build()
    module.untrained = ["aggregator.temporal.0.weight", "aggregator.matcher.weight"]
    module.trainer = SimpleNamespace(state=SimpleNamespace(fn="predict"))
    module.on_predict_start()
    module.refine = True
    with pytest.raises(ValueError, match=r"aggregator \(1 tensors\)"):
        module.on_predict_start()


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

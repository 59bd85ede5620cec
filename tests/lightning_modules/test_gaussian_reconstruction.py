"""Training of the Gaussians: what moves, what is drawn, what is refused, and a run from configs."""

import json
from dataclasses import replace
from types import SimpleNamespace

import lightning as L
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from textured_wall import SIZE, TINY, make_batch, make_network
from torch.utils.data import DataLoader

from lightning_modules.gaussian_reconstruction import GaussianReconstruction
from scene4d.losses import (
    BackgroundLoss,
    CameraDistillation,
    DepthConsistencyLoss,
    DepthDistillation,
    ImageLoss,
    MatchingLoss,
    PerceptualImageLoss,
    PointLoss,
)
from scene4d.networks.vggt import match_refinement


def optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=3e-3)


def build(losses=None, **settings):
    losses = losses or [ImageLoss()]
    module = GaussianReconstruction(make_network, losses, optimizer, **settings)
    module.log = module.log_dict = lambda *_, **__: None
    module.trainer = SimpleNamespace(
        accumulate_grad_batches=1, global_step=0, distributed_sampler_kwargs=None
    )  # fmt: skip
    module.configure_model()
    return module


def losses_of(module, batch, steps):
    optimizer = module.configure_optimizers()
    values = []
    for step in range(steps):
        loss = module.training_step(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def test_gaussian_training_moves_only_what_is_trainable():
    module = build(
        [ImageLoss(), PerceptualImageLoss(), BackgroundLoss(0.1)], trainable=["^gaussian_head", "temporal"]
    )
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
    for cameras in ("aligned", "predicted"):
        module = build(trainable=["camera_head"], cameras=cameras)
        module.training_step(make_batch(t=1), 0).backward()
        head = module.network.camera_head
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in head.parameters()), cameras


def test_predicted_targets_take_a_second_run_without_gradients():
    seen = []
    module = build(cameras="predicted")
    module.network.register_forward_pre_hook(
        lambda _, x: seen.append((x[0].shape[1], torch.is_grad_enabled()))
    )
    module.training_step(make_batch(t=1), 0)
    assert seen == [(1 + 2, False), (3, True)]
    batch = make_batch(t=1)
    batch.images[:] = torch.nan  # a rank whose scenes are all useless makes the same calls
    module.training_step(batch, 0)
    assert seen[2:] == seen[:2]


def test_unknown_trainable_pattern_is_named():
    with pytest.raises(ValueError, match="gaussian_haed"):
        build(trainable=["gaussian_haed"])


@pytest.mark.parametrize("refine", [False, True])
def test_scenes_without_depth_train_in_the_unit_of_the_predicted_cameras(refine):
    """Whatever their own unit is, alone and beside a scene with depth."""
    module, losses = build(refine=refine), []
    for unit in (1.0, 50.0):
        alone, mixed = make_batch(), make_batch(b=2)
        alone.depths, mixed.depths[1] = None, 0
        for batch in (alone, mixed):
            batch.cameras.c2w[-1:, :, :3, 3] *= unit
            losses.append(module.training_step(batch, 0))
    assert torch.allclose(losses[0], losses[2], rtol=1e-3) and torch.allclose(losses[1], losses[3], rtol=1e-3)
    losses[3].backward()
    assert all(p.grad.isfinite().all() for p in module.network.gaussian_head.parameters())


def count_calls(monkeypatch, name):
    calls, function = [], getattr(match_refinement, name)
    monkeypatch.setattr(match_refinement, name, lambda *x, **y: calls.append(1) or function(*x, **y))
    return calls


@pytest.mark.parametrize(
    ("cameras", "depth"), [("given", False), ("aligned", False), ("aligned", True), ("given", True)]
)
def test_a_step_matches_and_refines_once(monkeypatch, cameras, depth):
    """Cameras are found only where they place Gaussians or give scenes without depth their unit of length."""
    module, batch = build(refine=True, cameras=cameras), make_batch(t=1)
    if not depth:
        batch.depths = None
    matched, corrected, searched = (
        count_calls(monkeypatch, name) for name in ("find_matches", "correct_depth", "_find_cameras")
    )
    module.training_step(batch, 0)
    assert (len(matched), len(corrected)) == (1, 1)
    assert len(searched) == (0 if cameras == "given" and depth else 1)


def test_scenes_without_cameras_are_named():
    """One may be an accident, a hundred are none."""
    batch, module = make_batch(t=1), build()
    batch.cameras = None
    assert module.training_step(batch, 0) == 0
    module.useful.left_out["objects"] = 99
    with pytest.raises(ValueError, match="'objects': none of its first 100 scenes .* it has no cameras"):
        module.training_step(batch, 0)


def test_a_loss_without_its_head_is_named():
    with pytest.raises(ValueError, match=r"PointLoss .* needs a point head"):
        build([ImageLoss(), PointLoss()]).training_step(make_batch(t=1), 0)


def test_views_and_pairs_depend_on_the_step_alone():
    module, batch, losses = build([ImageLoss(), MatchingLoss()]), make_batch(t=1), {}
    for step in (0, 1, 2, 3, 0, 1):
        module.trainer.global_step = step
        torch.rand(step + 1)  # moves the global generator
        losses.setdefault(step, []).append(module.training_step(batch, 0).item())
    assert losses[0][0] == losses[0][1] and losses[1][0] == losses[1][1]
    assert len({values[0] for values in losses.values()}) > 1


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


def test_a_resumed_run_repeats_an_uninterrupted_one(tmp_path):
    """Bitwise: all random choices, of views and of pairs to match, come back."""
    loader = DataLoader([make_batch(t=1)] * 4, batch_size=None)

    def run(steps, ckpt_path=None, **settings):
        L.seed_everything(0, verbose=False)
        module = GaussianReconstruction(
            make_network, [ImageLoss(), MatchingLoss(0.1)], optimizer, trainable=[".*"], rendered_inputs=1
        )
        trainer = quiet_trainer(tmp_path, max_steps=steps, **settings)
        trainer.fit(module, loader, ckpt_path=ckpt_path, weights_only=False)
        return trainer, module.network.state_dict()

    _, whole = run(4)
    half, _ = run(2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed = run(4, str(tmp_path / "half.ckpt"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_checkpoints_hold_the_network_alone(tmp_path):
    trainer = quiet_trainer(tmp_path, max_steps=1)
    module = GaussianReconstruction(make_network, [ImageLoss(), PerceptualImageLoss()], optimizer)
    trainer.fit(module, DataLoader([make_batch(t=1)], batch_size=None))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=False)
    assert all(name.startswith("network.") for name in state["state_dict"])
    assert (tmp_path / "a.ckpt").stat().st_size < 1.5e6  # the perceptual network would add 5 MB
    again = GaussianReconstruction.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    assert [loss.name for loss in again.losses] == [loss.name for loss in module.losses]


def test_an_untrained_head_is_refused_unless_a_checkpoint_brings_it(tmp_path):
    weights = {k: v for k, v in make_network().state_dict().items() if not k.startswith("gaussian_head")}
    save_file(weights, tmp_path / "geometry.safetensors")
    loader = DataLoader([make_batch(t=1)], batch_size=None)

    def module():
        return GaussianReconstruction(
            make_network,
            [ImageLoss()],
            optimizer,
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


def test_untrained_temporal_attention_is_the_identity_and_allowed():
    for refine, refused in ((False, None), (True, r"aggregator \(1 tensors\)")):
        module = build(refine=refine)
        module.untrained = ["aggregator.temporal.0.weight", "aggregator.matcher.weight"]
        module.trainer = SimpleNamespace(state=SimpleNamespace(fn="predict"))
        if refused is None:
            module.on_predict_start()
        else:
            with pytest.raises(ValueError, match=refused):
                module.on_predict_start()


def test_rows_are_logged_for_each_source():
    module, logged = build(), {}
    module.log = lambda name, value, **_: logged.update({name: value})
    module.log_dict = lambda values, **_: logged.update(values)
    rooms = make_batch()
    rooms.source = ["rooms"]
    module.on_validation_epoch_start()
    for batch in (make_batch(b=2), rooms):
        module.validation_step(batch, 0)
    module.on_validation_epoch_end()
    rows = {(row.source, row.method, row.score): row for row in module.results["reconstruction"]}
    assert logged["val/pose_free_psnr_rooms"] == rows["rooms", "pose_free", "psnr"].value
    assert "val/given_cameras_ssim_objects" in logged and not any("copy_nearest" in name for name in logged)
    psnr = [rows[source, "given_cameras", "psnr"].value for source in ("objects", "rooms")]
    assert logged["val/psnr"] == pytest.approx((2 * psnr[0] + psnr[1]) / 3)
    assert set(module.pictures) == {"objects/scene0", "objects/scene1", "rooms/scene0"}


@torch.no_grad()
def test_prediction_needs_a_grid_only():
    batch = make_batch(b=2)
    batch.cameras = batch.depths = None
    result = build().predict_step(batch, 0)
    assert result.gaussians.means.shape == (2, 2, 5 * SIZE * SIZE, 3)
    assert result.keys == ["scene0", "scene1"] and torch.equal(result.frame_times, batch.frame_times)


@torch.no_grad()
def test_predict_uses_the_cameras_that_known_names():
    batch = make_batch(inputs=5, targets=0, t=1)
    found = {
        known: build(known=known).predict_step(batch, 0).cameras
        for known in ("nothing", "intrinsics", "cameras")
    }
    true = batch.cameras
    assert torch.equal(found["intrinsics"].intrinsics, true.intrinsics)
    assert torch.equal(found["intrinsics"].c2w, found["nothing"].c2w)
    torch.testing.assert_close(found["cameras"].c2w[..., :3, :3], true.c2w[..., :3, :3])


def test_losses_of_distillation_hold_the_network_near_its_files():
    """The teacher is the network at the start: no loss then, one that pulls back later, and nothing in checkpoints."""
    losses = [ImageLoss(), DepthDistillation(), CameraDistillation()]
    module = build(losses, trainable=["depth_head", "camera_head"], checkpointing="full")
    batch, logged = make_batch(t=1), []
    before = module.teacher(batch.images)
    module.log_means = lambda found, *_, **__: logged.append(found)
    module.training_step(batch, 0)
    assert logged[0]["depth_distillation"] == 0 and logged[0]["camera_distillation"] == 0
    with torch.no_grad():
        for part in (module.network.depth_head, module.network.camera_head):
            for parameter in part.parameters():
                parameter.add_(0.05)
    module.configure_model()  # as before a validation: the teacher stays what it was
    module.training_step(batch, 0).backward()
    assert logged[1]["depth_distillation"] > 0 and logged[1]["camera_distillation"] > 0
    after = module.teacher(batch.images)
    assert torch.equal(after.poses[-1], before.poses[-1]) and torch.equal(after.depths, before.depths)
    assert all(p.grad.isfinite().all() for p in module.network.depth_head.parameters() if p.grad is not None)
    assert not any("teacher" in name for name in module.state_dict())
    assert module.teacher.network.gaussian_head is None and module.network.gaussian_head is not None
    assert build().teacher is None


def test_rendered_depth_is_compared_with_the_depth_that_placed_it():
    """Cheap where the views agree; dear where a view puts its pixels in front of the others."""
    values, logged = [], []
    for bend in (1.0, 0.4):
        module, batch = (
            build([ImageLoss(), DepthConsistencyLoss()], rendered_inputs=1),
            make_batch(t=1, endless=True),
        )
        module.log_means = lambda found, *_, **__: logged.append(found)
        depths = batch.depths.clone()
        depths[:, 1] *= bend
        forward = module.network.forward
        flat = torch.ones_like(depths[:, :3])

        def right(images, depths=depths, forward=forward, flat=flat):
            prediction = forward(images)
            return replace(
                prediction, depths=depths[:, :3] / 2.0 + 0 * prediction.depths, depth_confidence=flat
            )

        module.network.forward = right
        losses = [module.training_step(batch, step) for step in range(3)]
        losses[0].backward()
        assert any(p.grad.abs().max() > 0 for p in module.network.gaussian_head.parameters())
        values.append(max(float(x["depth_consistency"].detach()) for x in logged[-3:]))
    assert values[0] < 0.15 and values[1] > 2 * values[0]


def test_depth_consistency_needs_a_rendered_input():
    module = build([ImageLoss(), DepthConsistencyLoss()], rendered_inputs=0)
    with pytest.raises(ValueError, match="depth_consistency.*rendered_inputs >= 1"):
        module.training_step(make_batch(t=1), 0)


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

    def losses(**weights):
        return [
            {"class_path": f"scene4d.losses.{name}", "init_args": {"weight": weight}}
            for name, weight in weights.items()
        ]

    config = {
        "seed_everything": 0,
        "model": {"class_path": "lightning_modules.GeometryPretraining", "init_args": {
            "network": network, "losses": losses(CameraLoss=5.0, DepthLoss=1.0, MatchingLoss=0.2)}},
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
        "network": network, "losses": losses(ImageLoss=1.0),
        "initial_weights": [str(tmp_path / "geometry.safetensors")]}}  # fmt: skip
    config["trainer"]["callbacks"] = [
        {"class_path": "callbacks.MetricsExport", "init_args": {"path": str(tmp_path / "metrics.json")}}
    ]
    path.write_text(yaml.safe_dump(config))
    main(["validate", "--config", str(path)])
    rows = json.loads((tmp_path / "metrics.json").read_text())["reconstruction"]
    (bound,) = [row for row in rows if (row["method"], row["score"]) == ("true_depth", "psnr")]
    assert (bound["source"], bound["count"]) == ("objects", 2)


def test_a_negative_number_of_rendered_inputs_is_named():
    with pytest.raises(ValueError, match="rendered_inputs must be at least 0, got -1"):
        build(rendered_inputs=-1)

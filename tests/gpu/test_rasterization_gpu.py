"""gsplat behind `rasterize` against our CPU rasterizer and the brute force, and what is trained through it.

The first test waits for gsplat's kernels to compile, which takes minutes where they were never built.
"""

import lightning as L
import pytest
import torch
from conftest import DEVICE
from textured_wall import SIZE, make_batch
from tiny_models import reconstruction_network, relative

from lightning_modules import GaussianReconstruction
from scene4d.losses import DepthLoss, ImageLoss
from scene4d.pipelines import Reconstructor
from scene4d.rendering import render_gaussians
from scene4d.rendering.rasterization import RENDER_MODES, rasterize, rasterize_reference
from scene4d.types import Cameras, Gaussians

WIDTH, HEIGHT = 37, 29  # no multiples of a tile
NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "backgrounds")


def cloud(gaussians=80, cameras=3, seed=0):
    """Random Gaussians before cameras that look at them, a few behind; float32, on the CPU."""
    g = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.eye(3) + 0.1 * torch.randn(cameras, 3, 3, generator=g)).Q
    viewmats = torch.eye(4).repeat(cameras, 1, 1)
    viewmats[:, :3, :3] = turn * torch.linalg.det(turn).sign()[:, None, None]
    viewmats[:, 2, 3] = 5.0
    Ks = torch.tensor([[30.0, 0, WIDTH / 2], [0, 29.0, HEIGHT / 2 - 0.3], [0, 0, 1]]).repeat(cameras, 1, 1)
    return [
        torch.randn(gaussians, 3, generator=g) * 1.2,
        torch.nn.functional.normalize(torch.randn(gaussians, 4, generator=g), dim=-1),
        0.05 + 0.4 * torch.rand(gaussians, 3, generator=g),
        0.05 + 0.9 * torch.rand(gaussians, generator=g),
        torch.rand(gaussians, 3, generator=g),
        viewmats,
        Ks,
    ]


def run(function, scene, device, dtype=torch.float32, background=True, **options):
    """Renders, alphas, and gradients of a fixed weighting of both, on the CPU in float64."""
    leaves = [x.detach().clone().to(device, dtype).requires_grad_() for x in scene]
    behind = torch.linspace(0.1, 0.9, 3 * len(scene[5]), dtype=dtype, device=device).reshape(-1, 3)
    behind = behind.requires_grad_() if background else None
    renders, alphas, _ = function(*leaves, WIDTH, HEIGHT, backgrounds=behind, **options)
    g = torch.Generator().manual_seed(5)
    weights = [torch.randn(x.shape, generator=g).to(x) for x in (renders, alphas)]
    (renders * weights[0]).sum().add((alphas * weights[1]).sum()).backward()
    wanted = dict(zip(NAMES, [*leaves[:6], *([behind] if background else [])]))
    gradients = {name: x.grad for name, x in wanted.items() if x.grad is not None}
    return renders.detach(), alphas.detach(), gradients


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("mode", RENDER_MODES)
def test_outputs_and_gradients_are_those_of_the_cpu_and_of_brute_force(mode, background, note_error):
    scene, options = cloud(), {"render_mode": mode, "background": background}
    found = run(rasterize, scene, DEVICE, **options)
    others = {
        "CPU": run(rasterize, scene, "cpu", **options),
        "brute force": run(rasterize_reference, scene, "cpu", torch.float64, **options),
    }
    for name, expected in others.items():
        for kind, ours, theirs in zip(("renders", "alphas"), found, expected):
            note_error(f"rasterizer against the {name}, {kind}", relative(ours, theirs))
            assert ours.device.type == DEVICE.type and ours.shape == theirs.shape
            assert relative(ours, theirs) < 1e-4, (name, kind)
        for kind, theirs in expected[2].items():
            if theirs.norm() > 0:
                note_error(
                    f"rasterizer against the {name}, gradient of {kind}", relative(found[2][kind], theirs)
                )
                assert relative(found[2][kind], theirs) < 5e-3, (name, kind)


@pytest.mark.parametrize(
    "limits", [{"near_plane": 5.0}, {"far_plane": 5.0}, {"radius_clip": 6.0}, {"eps2d": 1.0}]
)
def test_limits_act_as_on_the_cpu(limits):
    scene = cloud()
    found, expected = run(rasterize, scene, DEVICE, **limits), run(rasterize, scene, "cpu", **limits)
    assert relative(found[0], expected[0]) < 1e-3 and relative(found[1], expected[1]) < 1e-3
    assert relative(run(rasterize, scene, "cpu")[0], expected[0]) > 1e-3


def test_saturated_pixels_faint_splats_and_colours_of_each_camera():
    solid = cloud(300)
    solid[3] = torch.linspace(0.0, 1.0, 300)
    solid[4] = torch.rand(3, 300, 3)
    found, expected = run(rasterize, solid, DEVICE), run(rasterize, solid, "cpu")
    assert relative(found[0], expected[0]) < 1e-3 and found[1].max() > 0.99


@pytest.mark.parametrize("mode", ["RGB", "ED", "RGB+ED"])
@pytest.mark.parametrize("what", ["out of sight", "no Gaussians", "no cameras"])
def test_where_nothing_is_there_is_the_background(what, mode):
    scene = cloud(0 if what == "no Gaussians" else 5)
    scene[5][:, 2, 3] = -50.0
    if what == "no cameras":
        scene[5:] = [x[:0] for x in scene[5:]]
    found, expected = (run(rasterize, scene, device, render_mode=mode) for device in (DEVICE, "cpu"))
    for ours, theirs in zip(found[:2], expected[:2]):
        assert ours.shape == theirs.shape and torch.equal(ours.cpu(), theirs)
    assert all((x == 0).all() for name, x in found[2].items() if name != "backgrounds")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_under_autocast(dtype):
    scene = [x.to(DEVICE, dtype if i < 5 else torch.float32) for i, x in enumerate(cloud())]
    leaves = [x.requires_grad_() for x in scene[:5]]
    with torch.autocast(DEVICE.type, torch.bfloat16):
        renders, _, _ = rasterize(*leaves, *scene[5:], WIDTH, HEIGHT, render_mode="RGB+ED")
    renders.sum().backward()
    assert renders.dtype in (torch.float32, torch.float64)
    assert leaves[0].grad.dtype == dtype and leaves[0].grad.abs().max() > 0
    expected = rasterize(*(x.detach().float().cpu() for x in scene), WIDTH, HEIGHT, render_mode="RGB+ED")[0]
    assert relative(renders, expected) < 1e-3


def moving(device):
    g = torch.Generator().manual_seed(1)
    gaussians = Gaussians(
        means=torch.randn(2, 3, 40, 3, generator=g) * 0.5,
        quats=torch.nn.functional.normalize(torch.randn(2, 3, 40, 4, generator=g), dim=-1),
        scales=0.05 + 0.1 * torch.rand(2, 3, 40, 3, generator=g),
        opacities=torch.rand(2, 3, 40, generator=g), colors=torch.rand(2, 3, 40, 3, generator=g),
    )  # fmt: skip
    c2w = torch.eye(4).repeat(2, 1, 4, 1, 1)
    c2w[..., 2, 3] = -3 - torch.rand(2, 1, 4, generator=g)
    intrinsics = torch.tensor([[14.0, 0, 6], [0, 14, 5], [0, 0, 1]]).repeat(2, 1, 4, 1, 1)
    return gaussians.apply(lambda x: x.to(device)), Cameras(
        c2w.to(device).requires_grad_(), intrinsics.to(device)
    )


def test_a_batch_over_timesteps_and_cameras(note_error):
    results = {}
    for device in ("cpu", DEVICE):
        gaussians, cameras = moving(device)
        outputs = render_gaussians(gaussians, cameras, 10, 12, background=(0.2, 0.4, 0.6), depth=True)
        sum(x.square().sum() for x in outputs).backward()
        results[str(device)] = [*outputs, cameras.c2w.grad[..., :3, :]]
    for name, ours, theirs in zip(
        ("images", "depths", "alphas", "c2w"), results[str(DEVICE)], results["cpu"]
    ):
        note_error(f"timesteps x cameras against the CPU, {name}", relative(ours, theirs))
        assert ours.shape == theirs.shape and relative(ours, theirs) < (5e-3 if name == "c2w" else 1e-3), name


@torch.no_grad()
def test_a_reconstruction_is_seen_as_on_the_cpu(note_error):
    batch, images = make_batch(b=2), {}
    for device in ("cpu", DEVICE):
        pipeline, here = Reconstructor(reconstruction_network().to(device)), batch.to(device)
        scene = pipeline(here)
        images[str(device)] = pipeline.render(
            scene.gaussians, scene.cameras[:, 1:3], (SIZE, SIZE), scene.background
        )
    note_error("rendered reconstruction against the CPU", relative(images[str(DEVICE)], images["cpu"]))
    assert relative(images[str(DEVICE)], images["cpu"]) < 5e-3


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_of_the_reconstruction(precision, tmp_path, note_error):
    losses = {}
    for device, precise in (("cpu", "32-true"), (DEVICE, precision)):
        L.seed_everything(0, verbose=False)
        module = GaussianReconstruction(
            reconstruction_network, [ImageLoss(), DepthLoss()], torch.optim.AdamW, trainable=[".*"]
        )
        kept = KeepLoss()
        L.Trainer(
            default_root_dir=tmp_path, accelerator="cpu" if torch.device(device).type == "cpu" else "gpu",
            devices=1, precision=precise, max_steps=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[kept],
        ).fit(module, torch.utils.data.DataLoader([make_batch(b=2)], batch_size=None))  # fmt: skip
        assert all(p.isfinite().all() for p in module.network.parameters())
        losses[str(device), precise] = kept.loss
    found, expected = losses[str(DEVICE), precision], losses["cpu", "32-true"]
    note_error(f"loss of the reconstruction, {precision}", abs(found / expected - 1))
    assert found == pytest.approx(expected, rel=1e-3 if precision == "32-true" else 0.05)


class KeepLoss(L.Callback):
    """The loss of the last step."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.loss = outputs["loss"].item()

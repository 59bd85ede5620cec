"""Training on the GPU: a step in mixed precision, compiled blocks, averages, FSDP2, and memory after validation."""

from copy import deepcopy

import lightning as L
import pytest
import torch
import torch.distributed as dist
from conftest import DEVICE
from textured_wall import make_batch, make_network
from tiny_models import patch_autoencoder, relative, scenes, wan
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from callbacks.ema import ExponentialMovingAverage, trainable
from lightning_modules import GeometryPretraining, VideoDiffusion
from scene4d.diffusion.rectified_flow import RectifiedFlow
from scene4d.distributed.checkpointing import checkpoint_blocks
from scene4d.distributed.compiling import compile_blocks
from scene4d.distributed.sharding import gather
from scene4d.losses import CameraLoss, DepthLoss, MatchingLoss
from scene4d.pipelines import Sampling


def trainer(folder, device=DEVICE, precision="bf16-mixed", steps=1, **settings) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder, accelerator="cpu" if torch.device(device).type == "cpu" else "gpu", devices=1,
        precision=precision, max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **settings,
    )  # fmt: skip


class KeepLosses(L.Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3)


def diffusion(**settings) -> VideoDiffusion:
    return VideoDiffusion(
        wan, patch_autoencoder, RectifiedFlow("data"), optimizer, sampling=Sampling(2), **settings
    )


def on(batches, workers=0):
    return DataLoader(batches, batch_size=None, num_workers=workers)


@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_of_the_diffusion_model_in_mixed_precision(
    compiled, checkpointing, tmp_path, monkeypatch, note_error
):
    """The device draws noise of its own, so the CPU's float32 loss is computed for the same noise."""
    calls, loss = [], RectifiedFlow.loss
    monkeypatch.setattr(RectifiedFlow, "loss", lambda self, *x: calls.append(x[1:]) or loss(self, *x))
    kept, module = KeepLosses(), diffusion(compile=compiled, checkpointing=checkpointing)
    trainer(tmp_path, callbacks=[kept], gradient_clip_val=1.0).fit(module, on([scenes()]))
    arguments = [x.detach().cpu() if isinstance(x, torch.Tensor) else x for x in calls[0]]
    with torch.no_grad():
        expected = loss(RectifiedFlow("data"), wan(), *arguments).mean().item()
    note_error("loss of the diffusion model, bf16-mixed", abs(kept.losses[0] / expected - 1))
    assert kept.losses[0] == pytest.approx(expected, rel=0.02)
    before, moved = wan().state_dict(), module.network.state_dict()
    changed = [name for name in before if not torch.equal(before[name], moved[name].cpu())]
    assert changed and all(moved[name].isfinite().all() for name in moved)
    assert all(p.dtype == torch.float32 for p in module.network.parameters() if p.requires_grad)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_of_the_geometry_in_mixed_precision(precision, tmp_path, note_error):
    losses = {}
    for device, precise in (("cpu", "32-true"), (DEVICE, precision)):
        kept = KeepLosses()
        L.seed_everything(0, verbose=False)
        module = GeometryPretraining(make_network, [DepthLoss(), CameraLoss(), MatchingLoss(0.1)], optimizer)
        trainer(tmp_path, device, precise, callbacks=[kept]).fit(module, on([make_batch(b=2)]))
        losses[str(device), precise] = kept.losses[0]
    found, expected = losses[str(DEVICE), precision], losses["cpu", "32-true"]
    note_error(f"loss of the geometry, {precision}", abs(found / expected - 1))
    assert found == pytest.approx(expected, rel=1e-3 if precision == "32-true" else 0.05)


def gradients(network, device, dtype=torch.float32):
    torch.manual_seed(3)
    latents = torch.randn(1, 3, 3, 4, 4, 4).to(device)
    mask = torch.zeros(1, 3, 3, dtype=torch.bool)
    mask[:, 0] = mask[:, :, 0] = True
    with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
        out = network(latents, torch.full((1,), 0.5, device=device), None, latents, mask.to(device))
    out.float().square().mean().backward()
    return out.detach(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
def test_outputs_and_gradients_of_the_network_are_those_of_the_cpu(dtype, compiled, note_error):
    expected, theirs = gradients(wan(), "cpu")
    network = wan().to(DEVICE)
    if compiled:
        compile_blocks(network)
    out, ours = gradients(network, DEVICE, dtype)
    worst = max(relative(ours[name], theirs[name]) for name in theirs if theirs[name].norm() > 1e-6)
    kind = f"Wan network, {dtype}" + (", compiled" if compiled else "")
    note_error(f"{kind}, output", relative(out, expected))
    note_error(f"{kind}, gradients", worst)
    assert relative(out, expected) < (1e-4 if dtype == torch.float32 else 0.05)
    assert worst < (1e-3 if dtype == torch.float32 else 0.2)


def test_averages_follow_the_weights_and_take_their_place_in_validation(tmp_path):
    seen, module, ema = [], diffusion(), ExponentialMovingAverage(0.5)

    class Look(L.Callback):
        def on_validation_batch_start(self, trainer, pl_module, *rest):
            seen.append({name: x.detach().clone() for name, x in trainable(pl_module).items()})

    run = trainer(tmp_path, steps=3, callbacks=[ema, Look()], limit_val_batches=1, val_check_interval=3)
    run.fit(module, on([scenes()] * 3), on([scenes(1)]))
    assert ema.updates == 3 and len(seen) == 1 and ema.averages.keys() == trainable(module).keys()
    for name, average in ema.averages.items():
        assert average.device.type == DEVICE.type and average.dtype == torch.float32
        assert torch.equal(
            seen[0][name], average
        )  # validation sees the averages, training goes on with its own
    assert any(not torch.equal(x, ema.averages[name]) for name, x in trainable(module).items())
    assert all(x.device.type == "cpu" for x in ema.whole_averages().values())


@pytest.mark.skipif(DEVICE.type == "cpu", reason="counts the memory of the GPU")
@pytest.mark.parametrize("inside_fit", [False, True])
def test_validation_gives_its_memory_back(inside_fit, tmp_path):
    module, batches = diffusion(), [scenes()] * 2
    if not inside_fit:
        module.configure_model()
        module.untrained = []
        module.to(DEVICE)
        run = lambda: trainer(tmp_path).validate(module, on(batches), verbose=False)  # noqa: E731
        run()  # what is made once stays: compiled kernels, workspaces, networks of scores
        module.to(DEVICE)
        before = torch.cuda.memory_allocated()
        run()
        module.to(DEVICE)
        assert torch.cuda.memory_allocated() - before < 2**20
        return
    used = []

    class Measure(L.Callback):
        def on_validation_start(self, trainer, pl_module):
            used.append(torch.cuda.memory_allocated())

        on_validation_end = on_validation_start

    run = trainer(tmp_path, steps=4, callbacks=[Measure()], val_check_interval=2)
    run.fit(module, on([scenes()] * 4), on(batches))
    assert len(used) == 4 and used[3] - used[2] < 2**20, used


@pytest.fixture
def mesh(tmp_path):
    """A mesh of this device alone, over NCCL on a GPU."""
    if DEVICE.type == "cuda":
        torch.cuda.set_device(0)
    backend = "nccl" if DEVICE.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield init_device_mesh(DEVICE.type, (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_sharded_blocks_step_as_plain_ones(mesh, checkpointing, note_error):
    plain, network = wan().to(DEVICE), wan().to(DEVICE)
    checkpoint_blocks(network, checkpointing)
    for block in network.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    expected, theirs = gradients(plain, DEVICE)
    out, ours = gradients(network, DEVICE)
    assert all(isinstance(gradient, DTensor) for gradient in ours.values())
    worst = max(relative(gather(ours[name]), theirs[name]) for name in theirs if theirs[name].norm() > 1e-6)
    note_error("FSDP2 of one rank, gradients", worst)
    assert relative(out, expected) < 1e-5 and worst < 1e-4
    before = deepcopy(plain.state_dict())
    for one in (plain, network):
        torch.optim.AdamW(one.parameters(), lr=1e-3).step()
    moved = plain.state_dict()
    whole = {name: gather(value) for name, value in network.state_dict().items()}
    assert all(torch.allclose(whole[name], moved[name].cpu(), atol=2.1e-3) for name in moved)
    assert any(not torch.equal(moved[name], before[name]) for name in moved)

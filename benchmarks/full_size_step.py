"""One real training step of a Wan of full size on a CPU, from a checkpoint on disk to one that plain diffusers loads.

    python -m benchmarks.full_size_step --folder /tmp/full
    python -m benchmarks.full_size_step --folder /tmp/tiny --layers 2 --heads 2 --views 2 --frames 5 --size '[32, 32]'

The checkpoint is of the shape of Wan2.1-T2V-1.3B, in diffusers' layout, and has random weights. Beside it lies an
autoencoder of the class, strides and channels of Wan's, but narrow and with random weights: it encodes nothing, since
the shards hold (random) latents and captions, and its fingerprint is that of the latents. Then every stage runs in a
process of its own, through the commands that users call: a step of `main.py fit` (frozen weights bfloat16, those that
train float32, full checkpointing, AdamW), `scene4d.networks.wan.export`, and `from_pretrained` of plain diffusers.
Prints seconds and the peak of the resident memory of every stage, and the sizes of the files.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from jsonargparse import ArgumentParser
from safetensors.torch import load_file

import main as command_line
from benchmarks.step_seconds import StepSeconds
from preparation.writing.shards import write_encoded
from scene4d.latent_grid import latent_frames
from scene4d.networks import WanAutoencoder
from scene4d.networks.autoencoder import autoencoder_fingerprint
from scene4d.networks.wan import export
from scene4d.sample_changes import add_latents
from scene4d.sample_format import SceneSample, encode_sample

log = logging.getLogger(__name__)
CHANNELS, STRIDE, TEXT = 16, 8, 4096


@dataclass(frozen=True)
class Size:
    """The size of the network and of the grids; the default is Wan2.1-T2V-1.3B on 8 views x 29 frames of 144 x 256.

    Args:
        folder: Everything is written below it.
        layers: Transformer blocks.
        heads: Heads of 128 channels; the feed-forward layers have 8960 / 1536 times the width.
        views: Views of the grid.
        frames: Frames per view, 4k + 1.
        size: Height and width in pixels.
        dtype: Type of the frozen weights and of the computation: bfloat16, or float32, which is several times faster on
            a processor without AMX. What trains is float32 in both.
    """

    folder: Path
    layers: int = 30
    heads: int = 12
    views: int = 8
    frames: int = 29
    size: tuple[int, int] = (144, 256)
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class Stage:
    """What a stage took.

    Attributes:
        name: The stage.
        seconds: Its duration, imports aside.
        gibibytes: Peak of its resident memory.
        result: What it returned.
    """

    name: str
    seconds: float
    gibibytes: float
    result: dict[str, float]


def write_base(size: Size) -> dict[str, float]:
    """Writes the checkpoint: transformer and autoencoder."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    width = 128 * size.heads
    base = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=size.heads, attention_head_dim=128, in_channels=CHANNELS,
        out_channels=CHANNELS, text_dim=TEXT, freq_dim=256, ffn_dim=width * 35 // 6, num_layers=size.layers,
    )  # fmt: skip
    torch.set_default_dtype(torch.float32)
    count = sum(p.numel() for p in base.parameters())
    base.save_pretrained(size.folder / "base/transformer", max_shard_size=max(count // 2, 10**5))
    AutoencoderKLWan(base_dim=8, z_dim=CHANNELS).save_pretrained(size.folder / "base/vae")
    files = list((size.folder / "base/transformer").glob("*.safetensors"))
    return {"billion parameters": count / 1e9, "files": len(files), "GB": gigabytes(*files)}


def write_shards(size: Size) -> dict[str, float]:
    """Writes a shard of two scenes whose latents and captions are random numbers."""
    random = np.random.default_rng(0)
    fingerprint = autoencoder_fingerprint(WanAutoencoder(str(size.folder / "base")))
    shape = (size.views, CHANNELS, latent_frames(size.frames), *(x // STRIDE for x in size.size))
    samples = []
    for key in ("first", "second"):
        images = np.zeros((size.views, size.frames, *size.size, 3), np.uint8)
        text = random.standard_normal((20, TEXT)).astype(np.float32) * 0.1
        members = encode_sample(SceneSample(key, "objects", images, 24.0, text=text))
        samples.append(add_latents(members, random.standard_normal(shape), fingerprint))
    path = size.folder / "shards/objects-train-000000.tar"
    write_encoded(path, samples)
    return {"GB": gigabytes(path)}


def settings(size: Size) -> dict[str, object]:
    """The config of the training."""
    base = str(size.folder / "base")
    selection = {"views": size.views, "view_strides": [1], "frames": size.frames, "first_frame": True}
    model = {
        "network": "configs/network/wan2.1_1.3b.yaml", "flow": {},
        "autoencoder": {"class_path": "scene4d.networks.WanAutoencoder", "init_args": {"pretrained": base}},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-4}}, "checkpointing": "full",
    }  # fmt: skip
    data = {
        "size": list(size.size), "batch_size": 1, "num_workers": 0, "depth": False,
        "train_defaults": {
            "root": str(size.folder / "shards"), "augmentation": None,
            "selection": {"class_path": "datamodules.GridSelection", "init_args": selection},
        },
        "train": [{"name": "objects", "urls": ["*.tar"], "latents": True}],
    }  # fmt: skip
    precision = "bf16-mixed" if size.dtype == "bfloat16" else "32-true"
    trainer = {
        "accelerator": "cpu", "devices": 1, "precision": precision, "max_steps": 1, "limit_val_batches": 0,
        "gradient_clip_val": 1.0, "log_every_n_steps": 1, "enable_progress_bar": False,
        "default_root_dir": str(size.folder / "run"),
        "callbacks": [
            {"class_path": "benchmarks.step_seconds.StepSeconds"},
            {"class_path": "callbacks.LastCheckpoint"},
            {"class_path": "callbacks.WeightsExport",
             "init_args": {"path": "diffusion.safetensors", "trainable_only": True}},
        ],
    }  # fmt: skip
    return {
        "model": {"class_path": "lightning_modules.VideoDiffusion", "init_args": model},
        "data": {"class_path": "datamodules.SceneDataModule", "init_args": data},
        "trainer": trainer,
    }


def fit(size: Size) -> dict[str, float]:
    """Runs `main.py fit` for one step."""
    config = size.folder / "training.yaml"
    content = settings(size)
    content["model"]["init_args"]["network"] = network(size)  # type: ignore[index]
    config.write_text(yaml.safe_dump(content))
    trainer = command_line.main(["fit", "--config", str(config)]).trainer
    (watch,) = (x for x in trainer.callbacks if isinstance(x, StepSeconds))
    return {
        "steps": trainer.global_step,
        "loss": float(trainer.callback_metrics["train/loss"]),
        "seconds of the step": watch.seconds[0],
        "GB of last.ckpt": gigabytes(*(size.folder / "run").rglob("last.ckpt")),
        "GB of diffusion.safetensors": gigabytes(size.folder / "run/diffusion.safetensors"),
    }


def network(size: Size) -> dict[str, object]:
    """`configs/network/wan2.1_1.3b.yaml` on the checkpoint here."""
    content = yaml.safe_load(Path("configs/network/wan2.1_1.3b.yaml").read_text())
    content["init_args"] |= {"pretrained": str(size.folder / "base"), "dtype": size.dtype}
    return content


def write_export(size: Size) -> dict[str, float]:
    """Runs `python -m scene4d.networks.wan.export`."""
    config = size.folder / "network.yaml"
    config.write_text(yaml.safe_dump(network(size)))
    weights = f"[{size.folder / 'run/diffusion.safetensors'}]"
    export.main(["--network", str(config), "--weights", weights, "--output", str(size.folder / "tuned")])
    return {"GB": gigabytes(*(size.folder / "tuned/transformer").glob("*.safetensors"))}


def load_plainly(size: Size) -> dict[str, float]:
    """Loads the result with plain diffusers, and compares it with what was trained.

    Raises:
        ValueError: A weight is missing, too many, or not what was trained.
    """
    model, info = WanTransformer3DModel.from_pretrained(
        size.folder / "tuned/transformer", torch_dtype=torch.bfloat16, output_loading_info=True
    )
    wrong = [f"{kind}: {names[0]}" for kind, names in info.items() if names]
    own = {f"base.{name}": value for name, value in model.state_dict().items()}
    trained = load_file(size.folder / "run/diffusion.safetensors")
    wrong += [
        name for name, value in trained.items() if not torch.equal(own[name], value.to(own[name].dtype))
    ]
    if wrong:
        raise ValueError(f"plain diffusers does not load what was trained: {wrong[0]} ({len(wrong)} in all)")
    return {"tensors": len(own), "trained tensors": len(trained), "missing or extra": 0}


def measured(stage: Callable[[Size], dict[str, float]], size: Size) -> Stage:
    """Runs a stage in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(_measure, stage, size).result()
    log.info("| %s | %.1f | %.2f | %s |", found.name, found.seconds, found.gibibytes, described(found.result))
    return found


def _measure(stage: Callable[[Size], dict[str, float]], size: Size) -> Stage:
    start = time.perf_counter()
    result = stage(size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    return Stage(stage.__name__, time.perf_counter() - start, peak, result)


def described(result: dict[str, float]) -> str:
    """Figures on one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in result.items())


def gigabytes(*files: Path) -> float:
    """Size of files together."""
    return sum(file.stat().st_size for file in files) / 1e9


def main(arguments: Sequence[str] | None = None) -> list[Stage]:
    """Command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_class_arguments(Size)
    size = Size(**parser.parse_args(arguments).as_dict())
    log.info("%s\n\n| stage | seconds | peak GiB | |\n|---|---|---|---|", size)
    return [measured(stage, size) for stage in (write_base, write_shards, fit, write_export, load_plainly)]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()

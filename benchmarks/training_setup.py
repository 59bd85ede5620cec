"""What a training config says about the memory of a step: network, what trains, and the grids of every stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jsonargparse import Namespace
from torch import nn

from benchmarks.grids import Grid
from lightning_modules.from_config import training_parser
from lightning_modules.training import Training
from lightning_modules.video_diffusion import VideoDiffusion
from scene4d.networks.trainable import trainable_parameters
from scene4d.networks.wan.model import WAN_TEXT_LENGTH
from scene4d.stages import Stage, accumulated_batches

RELEASED = {
    16: (8, 126_892_531),
    48: (16, 704_688_668),
}  # stride and parameters of Wan's autoencoders, by channels
AVERAGES = "ExponentialMovingAverage"


@dataclass(frozen=True)
class Changes:
    """What takes the place of the config's; None keeps it.

    Args:
        views: Views that the network sees.
        frames: Frames per view, in a config without stages.
        height: Height of the frames, pixels.
        width: Width of the frames, pixels.
        batch: Grids per GPU and batch.
        stride: Pixels along the side of a latent.
    """

    views: int | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    batch: int | None = None
    stride: int | None = None


@dataclass(frozen=True)
class Setup:
    """A training without its data and weights.

    Attributes:
        module: The LightningModule; its network is not built.
        dtype: Type of the frozen weights.
        half: Whether the trainer computes in bfloat16.
        averages: Whether averages of the weights are kept.
        checkpointing: What the backward pass computes again.
        stages: Stages of the training; a single one if the config has none.
        grid: Grids of a batch; a stage may change it.
        global_batch: Grids of an optimizer step; None makes one batch of every GPU a step.
        autoencoder: Bytes of the frozen autoencoder, which every GPU holds.
    """

    module: Training
    dtype: torch.dtype
    half: bool
    averages: bool
    checkpointing: str
    stages: Sequence[Stage]
    grid: Grid
    global_batch: int | None
    autoencoder: int

    def grid_of(self, stage: Stage) -> Grid:
        """Grids of a batch in a stage."""
        given = {"views": stage.views, "frames": stage.frames, "batch": stage.batch_size}
        return replace(self.grid, **{name: value for name, value in given.items() if value})

    def accumulated(self, grid: Grid, gpus: int) -> int:
        """Batches of every GPU that make an optimizer step.

        Raises:
            ValueError: The global batch cannot be shared among the GPUs.
        """
        return 1 if self.global_batch is None else accumulated_batches(self.global_batch, gpus, grid.batch)

    def network(self) -> nn.Module:
        """Builds the network on the default device, with random weights, and freezes what does not train."""
        network = self.module.make_network().to(self.dtype)
        trainable_parameters(network, self.module.patterns(network))  # type: ignore[arg-type]
        return network


def read_setup(configs: Sequence[str], changes: Changes) -> Setup:
    """Reads a training config.

    Args:
        configs: YAML files, later ones over earlier ones.
        changes: What takes the place of the config's.

    Raises:
        ValueError: The config adapts its base by LoRA, or neither it nor `changes` says how large the grids are.
    """
    parser = training_parser()
    config = parser.parse_args([x for file in configs for x in ("--config", file)])
    data = config.data.init_args if config.get("data") else Namespace()
    dtype = _without_weights(config.model.init_args.network.init_args)
    autoencoder = config.model.init_args.get("autoencoder")
    stages = tuple(Stage(**x.init_args.as_dict()) for x in config.get("stages") or ())
    model = parser.instantiate(Namespace(model=config.model)).model
    grid, size = _grid(data, changes), 0
    if isinstance(model, VideoDiffusion):
        stride, size = _autoencoder(model, autoencoder)
        grid = replace(grid, stride=changes.stride or stride)
    return Setup(
        module=model,
        dtype=dtype,
        half=str(config.trainer.precision).startswith("bf16"),
        averages=any(x.class_path.endswith(AVERAGES) for x in config.trainer.callbacks or []),
        checkpointing=getattr(model, "checkpointing", "none"),
        stages=stages or (Stage(until=max(config.trainer.max_steps, 0)),),
        grid=grid,
        global_batch=data.get("global_batch"),
        autoencoder=size,
    )


def _without_weights(network: Namespace) -> torch.dtype:
    """Makes a network's settings those of one without weights; returns the type that its weights would have."""
    if network.get("adapter"):
        raise ValueError(
            "network.init_args.adapter: LoRA is not estimated; its base trains nothing, see --help"
        )
    dtype = getattr(torch, network.get("dtype", "float32"))
    if network.get("pretrained"):
        network.text_length = network.text_length or WAN_TEXT_LENGTH
    for name, value in (("pretrained", None), ("weights", None), ("dtype", "float32")):
        if name in network:
            network[name] = value
    return dtype


def _grid(data: Namespace, changes: Changes) -> Grid:
    """Grids of the first source; of a reconstruction, the views that the network sees."""
    selection = data.get("train_defaults.selection.init_args") or Namespace()
    size = data.get("size", (None, None))
    height, width = (size, size) if isinstance(size, int) else size
    found = {
        "views": selection.get("inputs") or selection.get("views"), "frames": selection.get("frames"),
        "height": height, "width": width, "batch": data.get("batch_size"),
    }  # fmt: skip
    found = {name: getattr(changes, name) or value for name, value in found.items()}
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise ValueError(
            f"the config does not say the grids' {', '.join(missing)}: give --{' --'.join(missing)}"
        )
    return Grid(**found)


def _autoencoder(model: VideoDiffusion, settings: Namespace) -> tuple[int, int]:
    """Pixels along the side of a latent, and bytes of the weights."""
    if not settings.init_args.get("pretrained"):
        built = model.make_autoencoder()
        return int(built.stride), sum(p.numel() * p.element_size() for p in built.parameters())  # type: ignore[arg-type]
    with torch.device("meta"):
        channels = int(model.make_network().channels)  # type: ignore[arg-type]
    if channels not in RELEASED:
        raise ValueError(
            f"an autoencoder of {channels} channels is none of Wan's, which have {' or '.join(map(str, RELEASED))}"
        )
    stride, count = RELEASED[channels]
    return stride, 4 * count

"""A trained model from the config files that trained it, for notebooks and scripts."""

from __future__ import annotations

import contextlib
import json

import lightning as L

from lightning_modules.config_parser import ConfigParser, add_stages
from lightning_modules.training import Training

COMMAND_LINE = (
    "seed_everything",
    "optimizer",
    "lr_scheduler",
    "ckpt_path",
    "weights_only",
    "verbose",
    "return_predictions",
)


def from_config(*configs: str, weights: list[str] | None = None) -> Training:
    """Builds the model of a training config, as `python main.py predict` does, ready for inference.

    The pipeline is its attribute `generator` (`VideoDiffusion`) or `reconstructor` (`GaussianReconstruction`).

    Args:
        configs: YAML files, later ones over earlier ones.
        weights: Weight files that take the place of the configs' `initial_weights`.

    Raises:
        ValueError: A config or weights file is missing or does not fit, or weights are missing; names it.
    """
    parser = ConfigParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_lightning_class_args(L.LightningModule, "model", subclass_mode=True, required=True)
    parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True, required=False)
    parser.add_lightning_class_args(L.Trainer, "trainer")
    add_stages(parser)
    for name in COMMAND_LINE:
        parser.add_argument(f"--{name}", type=object)
    parts = [*configs]
    if weights is not None:
        parts.append(json.dumps({"model": {"init_args": {"initial_weights": weights}}}))
    config = parser.parse_args([argument for part in parts for argument in ("--config", part)])
    with contextlib.suppress(KeyError):
        del config["data"]
    del config["trainer"]
    model = parser.instantiate(config).model
    model.configure_model()
    model.refuse_untrained()
    return model.eval().requires_grad_(False)

"""Which checkpoint a command goes on from, and which of the given settings cannot change what it holds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.checkpoint_files import newest_checkpoint, read_checkpoint

log = logging.getLogger(__name__)

AFRESH = (
    "for a new optimizer, add the checkpoint to model.init_args.initial_weights instead of giving --ckpt_path"
)
LIGHTNINGS = ("best", "hpc", "registry")  # values of --ckpt_path that are no files


def find_checkpoint(command: str, given: str | None, trainer: Namespace) -> str | None:
    """The file that `--ckpt_path` means.

    Args:
        command: fit, validate, test or predict; only fit may begin without a checkpoint.
        given: The value of `--ckpt_path`.
        trainer: The settings of the trainer.

    Raises:
        ValueError: The file is missing, cut or no checkpoint, or `last` finds nothing that can be used; names it.
    """
    if given != "last":
        if given and "://" not in given and not given.startswith(LIGHTNINGS):
            read_checkpoint(Path(given))
        return given
    folders = _folders(trainer)
    found = newest_checkpoint(folders)
    if found is None and command != "fit":
        raise ValueError(f"--ckpt_path last: there is no last.ckpt in {str(folders[0])!r}")
    if found is None:
        log.info("--ckpt_path last: no checkpoint in %s yet, training starts from the beginning", folders[0])
        return None
    return str(found)


def _folders(trainer: Namespace) -> list[Path]:
    """Where the checkpoints of a run are: in its folder, and where the callbacks of its config write others."""
    listed = trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks]
    given = [entry.get("init_args.dirpath") for entry in listed if isinstance(entry, Namespace)]
    return [Path(trainer.default_root_dir) / "checkpoints", *(Path(folder) for folder in given if folder)]


def keep_settings(path: str | None, config: Namespace) -> None:
    """Puts what a checkpoint holds in the place of given settings that cannot apply, and says so in a line each.

    Loading a checkpoint brings back the settings of its optimizer. The config, and so `config.yaml` and the
    next checkpoints, then say what is true.

    Args:
        path: The checkpoint that `fit` goes on from; None changes nothing.
        config: All settings of `fit`; changed in place.

    Raises:
        ValueError: The checkpoint has no optimizer, or one of another class.
    """
    if not path or not Path(path).exists():  # an address, for example
        return
    checkpoint, settings = read_checkpoint(Path(path)), config.model.init_args
    if "optimizer_states" not in checkpoint:
        raise ValueError(f"checkpoint {path!r} holds no optimizer to go on with; {AFRESH}")
    held = checkpoint.get("hyper_parameters", {})
    optimizer, before = settings.get("optimizer"), held.get("optimizer") or {}
    if optimizer and before and optimizer.class_path != before["class_path"]:
        raise ValueError(
            f"checkpoint {path!r} was made by {before['class_path']}, not {optimizer.class_path}; {AFRESH}"
        )
    if optimizer and (kept := _keep(optimizer.get("init_args"), _optimizer_settings(checkpoint))):
        log.info("the optimizer goes on as it was: %s; %s", ", ".join(kept), AFRESH)
    stages = [_plain(stage) for stage in settings.get("stages") or []]
    if stages != (before_stages := held.get("stages") or []):
        log.info("the stages change from here on: they are %s, they were %s", stages, before_stages)
    scheduler = settings.get("lr_scheduler")
    states = checkpoint.get("lr_schedulers") or [{}]
    if scheduler and (kept := _keep(scheduler.get("init_args"), states[0])):
        log.info("the schedule goes on as it was: %s; %s", ", ".join(kept), AFRESH)
    if scheduler and (changed := _changes(scheduler, held.get("lr_scheduler") or {}, checkpoint, config)):
        log.info("the schedule changes from here on: %s", ", ".join(changed))


def _plain(stage: Namespace) -> dict[str, Any]:
    """One entry of a list of dataclasses, which jsonargparse may keep as a class path and its arguments."""
    return stage.get("init_args", stage).as_dict()


def _optimizer_settings(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Those of the first group of parameters; a schedule keeps the full rate beside the present one."""
    groups = [group for state in checkpoint["optimizer_states"] for group in state["param_groups"]]
    settings = dict(groups[0]) if groups else {}
    return settings | ({"lr": settings["initial_lr"]} if "initial_lr" in settings else {})


def _keep(given: Namespace | None, held: dict[str, Any]) -> list[str]:
    """Replaces given values by those that are held under the same names; says which."""
    kept: list[str] = []
    if given is None:
        return kept
    for name in sorted(given.keys() & held.keys()):
        value = list(held[name]) if isinstance(held[name], tuple) else held[name]
        if value != (list(given[name]) if isinstance(given[name], tuple) else given[name]):
            kept.append(f"{name} stays {value}, not {given[name]}")
            given[name] = value
    return kept


def _changes(
    given: Namespace, held: dict[str, Any], checkpoint: dict[str, Any], config: Namespace
) -> list[str]:
    """What is recomputed from the given settings, because no state holds it."""
    before, after = held.get("init_args") or {}, given.get("init_args") or {}
    pairs = [(name, before[name], after[name]) for name in sorted(before.keys() & after.keys())]
    steps = checkpoint.get("callbacks", {}).get("LastCheckpoint", {}).get("max_steps")
    pairs += [("max_steps", steps, config.trainer.max_steps)] if steps is not None else []
    return [f"{name} is {new}, it was {old}" for name, old, new in pairs if old != new]


class SameParameters(L.Callback):
    """Refuses to go on with another set of parameters that train: an optimizer's state belongs to the old one."""

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Compares number and shapes.

        Raises:
            ValueError: They differ; names the settings.
        """
        states = checkpoint.get("optimizer_states")
        if trainer.state.fn != TrainerFn.FITTING or not states:
            return
        ours = [p for p in pl_module.parameters() if p.requires_grad]
        count = sum(len(group["params"]) for group in states[0]["param_groups"])
        shapes = {i: state["exp_avg"].shape for i, state in states[0]["state"].items() if "exp_avg" in state}
        if count != len(ours) or any(ours[i].shape != shape for i, shape in shapes.items()):
            before = checkpoint.get("hyper_parameters", {}).get("trainable")
            raise ValueError(
                f"the checkpoint trains {count} parameter tensors (trainable: {before}), this run {len(ours)} "
                f"(trainable: {getattr(pl_module, 'trainable', None)}); {AFRESH}"
            )

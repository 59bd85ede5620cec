"""The shipped configs on two ranks: every command and every callback, scores, and a divergence of one rank."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from main import main

pytestmark = pytest.mark.slow  # minutes
ROOT = Path(__file__).parents[1]
DDP = {"trainer.devices": 2, "trainer.strategy": "ddp"}
SMALL = {"data.init_args.size": 32, "data.init_args.num_workers": 0, "data.init_args.val_batch_size": 1}
QUICK = {"trainer.enable_progress_bar": "false"}
FIT = {
    "trainer.max_steps": 2, "trainer.log_every_n_steps": 1, "trainer.val_check_interval": 2,
    "trainer.limit_val_batches": 1, "data.init_args.batch_size": 1,
    "model.init_args.lr_scheduler.init_args.warmup_steps": 0,
}  # fmt: skip
GRID = {"data.init_args.train_defaults.selection.init_args.views": 2, "model.init_args.sampling.steps": 1}
STATIC = ("--data", "configs/data/small_reconstruction_static.yaml")
SOURCE = {
    "diffusion": "[{name: objects, urls: [objects-val-*.tar]}]",
    "reconstruction": "[{name: rooms, urls: [rooms-val-*.tar]}]",
}
GRIDS = {"model.init_args.sampling.steps": 1, "model.init_args.evaluation.init_args.linear_predictor": "null",
         "model.init_args.evaluation.init_args.baselines": "false"}  # fmt: skip
VIEWS = {"data.init_args.val_defaults.selection.init_args.frames": 1}
SHORT = {"data.init_args.val_defaults.selection.init_args.frames": 5}


def command(name, *configs, root, more=(), **options):
    """A command line: config files, arguments in a fixed place, then options by dotted name."""
    files = [part for file in configs for part in ("--config", f"configs/{file}.yaml")]
    given = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return [name, *files, *more, *given, "--trainer.default_root_dir", str(root)]


def score(name, part, root, options, scenes=3):
    """Scores three scenes, which two ranks cannot share evenly, or one, of which a rank gets none of its own."""
    options = {
        **SMALL,
        **QUICK,
        "data.init_args.val": SOURCE[part],
        "data.init_args.val_scenes": scenes,
        **options,
    }
    return command(name, f"small/shipped_{part}", f"evaluation/{part}", root=root, **options)


def judged(part, root, options):
    """A training that changes nothing, with a validation of three scenes in it."""
    options = {
        **SMALL, **QUICK, **FIT,
        "trainer.max_steps": 1, "trainer.val_check_interval": 1, "trainer.limit_val_batches": 1.0,
        "data.init_args.val": SOURCE[part], "data.init_args.val_scenes": 3,
        "data.init_args.train_defaults.root": "assets/small/shards",
        "model.init_args.optimizer.init_args.lr": 0.0, "trainer.callbacks": "[]", **options,
    }  # fmt: skip
    more = ("--data", "configs/data/small_reconstruction_dynamic.yaml") if part == "reconstruction" else ()
    return command("fit", f"small/shipped_{part}", root=root, more=more, **options)


def predict(part, export, root):
    """Predicts one scene on each rank."""
    callback = f"[{{class_path: callbacks.{export}, init_args: {{output: scenes}}}}]"
    options = {**DDP, **SMALL, **QUICK, **SHORT, "data.init_args.predict": SOURCE[part]}
    options |= {"trainer.callbacks": callback, "trainer.limit_predict_batches": 1, "trainer.logger": "false"}
    options |= {"model.init_args.sampling.steps": 1} if part == "diffusion" else {}
    more = ("--data", "configs/data/small_reconstruction_dynamic.yaml") if part == "reconstruction" else ()
    return command("predict", f"small/shipped_{part}", root=root, more=more, **options)


def cases(root):
    """Command lines by name; later ones may read what earlier ones wrote."""
    fit = {**DDP, **SMALL, **QUICK, **FIT}
    fault = {"trainer.callbacks": "[{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: "
             "{save_last: true, every_n_train_steps: 1}}, {class_path: two_ranks.LossOfOneRank}]"}  # fmt: skip
    return {
        "diffusion": command("fit", "small/diffusion_stage1", root=root / "diffusion", **fit, **GRID),
        "static": command("fit", "small/reconstruction_static", more=STATIC, root=root / "static", **fit),
        "geometry": command("fit", "small/reconstruction_geometry", more=STATIC, root=root / "geometry", **fit),
        "validate_diffusion": score("validate", "diffusion", root / "validate_diffusion", DDP | GRIDS | SHORT),
        "test_reconstruction": score("test", "reconstruction", root / "test_reconstruction", DDP | VIEWS),
        "predict_diffusion": predict("diffusion", "GridExport", root / "predict_diffusion"),
        "predict_reconstruction": predict("reconstruction", "GaussianExport", root / "predict_reconstruction"),
        "stages": staged(root, DDP),
        "alone_diffusion": score("validate", "diffusion", root / "alone_diffusion", DDP | GRIDS | SHORT, 1),
        "alone_reconstruction": score("test", "reconstruction", root / "alone_reconstruction", DDP | VIEWS, 1),
        "judged_diffusion": judged("diffusion", root / "judged_diffusion", DDP | GRID | SHORT),
        "judged_reconstruction": judged("reconstruction", root / "judged_reconstruction", DDP | VIEWS),
        "divergence": command("fit", "small/diffusion_stage1", root=root / "divergence", **fit, **GRID, **fault),
    }  # fmt: skip


def staged(root, more, *options):
    """Three steps of four grids each, the third one longer."""
    fit = {name: value for name, value in FIT.items() if "warmup" not in name and "max_steps" not in name}
    stages = "[{until: 2, frames: 5}, {until: 3, frames: 9}]"
    fit |= {"stages": stages, "data.init_args.global_batch": 4, "model.init_args.lr_scheduler": "null"}
    return command("fit", "small/diffusion_stage1", root=root / "stages", more=options,
                   **{**more, **SMALL, **QUICK, **GRID, **fit, "trainer.max_steps": 2})  # fmt: skip


def start_ranks(root):
    """Runs the cases of a folder on two ranks, and ends both if that takes too long."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "tests",
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": str(ROOT),
              "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # fmt: skip
    line = [sys.executable, str(ROOT / "tests" / "two_ranks.py"), str(root / "cases.json"), str(root)]
    ranks = []
    for rank in ("0", "1"):
        environment = {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}
        environment.pop("SCENE4D_LAUNCHER", None)  # of a run in this process; torchrun has none
        with (root / f"rank_{rank}.log").open("wb") as log:
            ranks.append(
                subprocess.Popen(line, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
            )
    try:
        for process in ranks:
            process.wait(timeout=600)
    except subprocess.TimeoutExpired:
        pytest.fail((root / "rank_0.log").read_text()[-4000:])
    finally:
        for process in ranks:
            process.kill()


def outcomes(root, lines):
    """What each command line ends with on both ranks, by its name."""
    (root / "cases.json").write_text(json.dumps(list(lines.values())))
    start_ranks(root)
    found = [json.loads((root / f"rank_{rank}.json").read_text()) for rank in range(2)]
    return dict(zip(lines, zip(*found)))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    root = tmp_path_factory.mktemp("ranks")
    return root, outcomes(root, cases(root))


@pytest.mark.parametrize("name", [name for name in cases(Path()) if name != "divergence"])
def test_every_command_ends_well_on_two_ranks(ran, name):
    assert ran[1][name] == (None, None)


def test_every_callback_has_done_its_work(ran):
    root, _ = ran
    for name, weights in (
        ("diffusion", "diffusion"),
        ("static", "reconstruction_static"),
        ("geometry", "geometry"),
    ):
        assert load_file(root / name / f"{weights}.safetensors")
        assert torch.load(root / name / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
        assert list((root / name / "pictures").rglob("train_*.png"))
    assert list((root / "diffusion" / "pictures").rglob("val_grid_*.png"))
    assert json.loads((root / "static" / "metrics.json").read_text())["reconstruction"]
    assert len(list((root / "predict_diffusion" / "scenes").rglob("grid.safetensors"))) == 2
    assert len(list((root / "predict_reconstruction" / "scenes").rglob("viewer.html"))) == 2


def test_tensorboard_has_what_a_training_needs_and_no_more(ran):
    events = EventAccumulator(str(ran[0] / "diffusion")).Reload()
    scalars = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars["train/learning_rate"] == scalars["train/gradient_norm"] == scalars["train/loss"] == [0, 1]
    assert not {"epoch", "hp_metric"} & scalars.keys()
    assert {"val/loss", "val/loss_objects"} <= scalars.keys()


def test_rank_0_alone_writes_and_every_picture_once(ran):
    for name in ("diffusion", "static", "geometry"):
        assert len(list((ran[0] / name).rglob("events.out.tfevents.*"))) == 1
        assert [path.name for path in (ran[0] / name).rglob("*.ckpt")] == ["last.ckpt"]
        assert not list((ran[0] / name).rglob("*.tmp"))
    events = EventAccumulator(str(ran[0] / "diffusion"), {"images": 0}).Reload()
    shown = {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}
    assert {tag: steps for tag, steps in shown.items() if tag.startswith("val/")} and all(
        len(steps) == 1 for steps in shown.values()
    )


@pytest.mark.filterwarnings("ignore")
def test_one_rank_goes_on_in_the_stage_of_two(ran, monkeypatch):
    """Two ranks took 2 x 2 batches for two steps; one rank counts 2 x 4, and its third step is one of 9 frames."""
    monkeypatch.setattr("sys.argv", ["main.py"])
    line = staged(ran[0], {}, "--ckpt_path", "last")
    line[line.index("--trainer.max_steps") + 1] = "3"
    trainer = main(line).trainer
    assert (trainer.global_step, trainer.accumulate_grad_batches) == (3, 4)
    assert trainer.fit_loop.epoch_loop.batch_progress.current.ready == 12
    assert trainer.train_dataloader._taken == 12 and trainer.train_dataloader._part()[0].until == 3


@pytest.mark.parametrize("name, part", [("validate", "diffusion"), ("test", "reconstruction")])
def test_scores_of_an_uneven_number_of_scenes_are_those_of_one_rank(ran, one_rank, name, part):
    rows = json.loads((ran[0] / f"{name}_{part}" / f"{part}.json").read_text())
    assert rows == one_rank[part]
    assert {row["count"] for row in rows[part] if row["score"] == "psnr"} <= {2, 3}


def test_the_other_two_ways_to_score_on_two_ranks(tmp_path, one_rank):
    lines = {
        "diffusion": score("test", "diffusion", tmp_path / "diffusion", DDP | GRIDS | SHORT),
        "reconstruction": score("validate", "reconstruction", tmp_path / "reconstruction", DDP | VIEWS),
    }
    assert set(outcomes(tmp_path, lines).values()) == {(None, None)}
    for part in lines:
        assert json.loads((tmp_path / part / f"{part}.json").read_text()) == one_rank[part]


def run_alone(line):
    """Runs a command line in this process with one thread, as each of two ranks does."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr("sys.argv", ["main.py"])
        torch.set_num_threads(1)
        try:
            main(line)
        finally:
            torch.set_num_threads(threads)


def validation_scalars(folder):
    """What the only validation of a training logged."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"] if tag.startswith("val/")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part, options", [("diffusion", GRID | SHORT), ("reconstruction", VIEWS)])
def test_a_validation_within_training_is_that_of_one_rank(ran, tmp_path, part, options):
    run_alone(judged(part, tmp_path, options))
    alone, together = validation_scalars(tmp_path), validation_scalars(ran[0] / f"judged_{part}")
    assert together == pytest.approx(alone, rel=1e-5) and len(alone) > 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part, options", [("diffusion", GRIDS | SHORT), ("reconstruction", VIEWS)])
def test_scores_where_a_rank_has_no_scene_are_those_of_one_rank(ran, tmp_path, part, options):
    run_alone(score("validate", part, tmp_path, options, scenes=1))
    alone, together = (
        json.loads((folder / f"{part}.json").read_text())[part]
        for folder in (tmp_path, ran[0] / f"alone_{part}")
    )
    assert {row["count"] for row in together} == {1} and len(together) == len(alone)
    for ours, theirs in zip(together, alone):
        assert ours["value"] == pytest.approx(theirs["value"], rel=1e-5)
        assert ours | theirs | {"value": 0} == theirs | {"value": 0}


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """The same scores in this process."""
    root, found = tmp_path_factory.mktemp("one"), {}
    for part, options in (("diffusion", GRIDS | SHORT), ("reconstruction", VIEWS)):
        run_alone(score("validate", part, root, options))
        found[part] = json.loads((root / f"{part}.json").read_text())
    return found


def test_a_loss_that_is_nan_on_one_rank_stops_all_and_names_it(ran):
    root, found = ran
    (kind, ours), (_, theirs) = found["divergence"]
    assert kind == "ValueError" and ours == theirs
    assert re.search(r"diverged at step 2: the loss is not finite \(rank 1: \w+/\S+\); ", ours), ours
    kept = torch.load(root / "divergence" / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 1

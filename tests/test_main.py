"""What a user reads when the command line is wrong."""

import json
import re
import resource
import shlex
from pathlib import Path

import pytest
import torch

import main as command_line
from lightning_modules import from_config
from main import main, run
from scene4d.messages import first_difference, one_line

ROOT = Path(__file__).parents[1]
DIFFUSION = ["--config", "configs/small/diffusion_stage2.yaml"]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["main.py"])


def told(*args):
    """The line that ends a run."""
    with pytest.raises(SystemExit) as end:
        run(list(args))
    assert "\n" not in str(end.value.code)
    return str(end.value.code).removeprefix("error: ")


@pytest.mark.parametrize("option, line", {
    "--model.init_args.samplingz 3":
        "model: lightning_modules.VideoDiffusion has no option 'samplingz', did you mean 'sampling'?",
    "--model.init_args.sampling.steps three": "model.sampling.steps: expected int, got three",
    "--model.init_args.network.class_path scene4d.networks.Nope":
        "model.network: module 'scene4d.networks' has no attribute 'Nope'",
    "--model.init_args.network.init_args.num_layers many": "model.network.num_layers: expected int, got many",
    "--model.init_args.optimizer.init_args.lr fast":
        "model.optimizer.lr: expected float or class path, got fast",
    "--model.init_args.flow.logit_mean low": "model.flow.logit_mean: expected float, got low",
    "--data.init_args.sizze 64": "data: datamodules.SceneDataModule has no option 'sizze', did you mean 'size'?",
    "--data.init_args.size big": "data.size: expected int or tuple, got big",
    "--data.init_args.val_scenes '{objects: all}'": "data.val_scenes: expected int, got all",
    "--data configs/data/nope.yaml": "data: file configs/data/nope.yaml does not exist or cannot be read",
    "--trainer.precision 12": r"trainer.precision: expected Literal[64, 32, 16] or .*'bf16-mixed'.*, got 12",
    "--trainer.maxsteps 3": "unrecognized arguments: --trainer.maxsteps 3",
    "--config configs/nope.yaml": f"config: File does not exist: '{ROOT}/configs/nope.yaml'",
}.items())  # fmt: skip
def test_a_wrong_option_is_named_with_what_was_expected(option, line):
    found = told("fit", *DIFFUSION, *shlex.split(option), "--print_config")
    assert re.fullmatch(re.escape(line).replace(r"\.\*", ".*"), found), found


@pytest.mark.parametrize("config, right, wrong, line", [
    ("model/small_diffusion", "sampling:", "samplingz:",
     "model: lightning_modules.VideoDiffusion has no option 'samplingz.steps', did you mean 'sampling'?"),
    ("model/small_diffusion", "decay: 0.999", "dekay: 0.999",
     "trainer.callbacks: callbacks.ExponentialMovingAverage has no option 'dekay', did you mean 'decay'?"),
    ("model/small_diffusion", "data: ../data/small_grid.yaml", "data: nope.yaml",
     "data: file .*nope.yaml does not exist or cannot be read"),
    ("small/diffusion_stage2", "trainer.max_steps", "trainer.max_stepz",
     "Group 'trainer' does not accept option 'max_stepz'"),
    ("small/diffusion_stage2", "init_args.initial_weights", "init_args.initial_weightz",
     "model: lightning_modules.VideoDiffusion has no option 'initial_weightz', did you mean 'initial_weights'?"),
    ("small/diffusion_stage2", "../model/small_diffusion.yaml", "nope.yaml",
     "config: File does not exist: '.*nope.yaml'"),
    ("network/small_wan", "num_layers", "num_layerz",
     "model.network: scene4d.networks.WanGridTransformer has no option 'num_layerz', did you mean 'num_layers'?"),
    ("network/small_wan", "num_layers: 8", "num_layers: many", "model.network.num_layers: expected int, got many"),
    ("data/small_grid", "weight: 0.2", "wieght: 0.2",
     "data.train: datamodules.Source has no option 'wieght', did you mean 'weight'?"),
    ("data/small_grid", "root: assets", "rooot: assets",
     "data: Group 'train_defaults' does not accept option 'rooot'"),
    ("data/small_reconstruction_static", "inputs: 4", "inputz: 4",
     "data.train_defaults.selection: datamodules.ContextSelection has no option 'inputz', did you mean 'inputs'?"),
])  # fmt: skip
def test_a_typo_in_a_file_is_named_with_what_was_expected(tmp_path, config, right, wrong, line):
    text = Path(f"configs/{config}.yaml").read_text()
    assert right in text
    file = tmp_path / "typo.yaml"
    file.write_text(text.replace(right, wrong).replace("../", f"{ROOT}/configs/"))
    option = {"data": "--data", "network": "--model.init_args.network"}.get(config.partition("/")[0])
    options = [*DIFFUSION, option, str(file)] if option else ["--config", str(file)]
    found = told("fit", *options, "--print_config")
    assert re.fullmatch(re.escape(line).replace(r"\.\*", ".*"), found), found


REPLACED = "mine.yaml: '{0}' would replace all that {{base}} says about it; write '{0}.{1}: ...' to change that alone"


@pytest.mark.parametrize("lines, message", [
    ("config: {base}\ntrainer:\n  max_steps: 3", REPLACED.format("trainer", "max_steps")),
    ("config: {base}\nmodel: {{init_args: {{compile: true}}}}", REPLACED.format("model", "init_args")),
    ("config: {base}\ndata: other.yaml\ndata.init_args.size: 32",
     "mine.yaml: 'data' and 'data.init_args.size' exclude each other; put one of them into a file"),
])  # fmt: skip
def test_settings_that_a_file_would_lose_are_named(tmp_path, lines, message):
    base, file = ROOT / "configs/small/diffusion_stage2.yaml", tmp_path / "mine.yaml"
    file.write_text(lines.format(base=base))
    assert told("fit", "--config", str(file), "--print_config") == message.format(base=base)


def test_one_line_of_other_errors():
    assert one_line(ValueError("size 60 is\n  not good")) == "size 60 is not good"
    assert one_line(ValueError("any of the Union subtypes")) == "any of the Union subtypes"
    assert one_line(KeyError()) == "KeyError"


def test_a_constructor_s_own_message_is_kept():
    assert told("fit", *DIFFUSION, "--data.init_args.size", "0") == "size must be positive, got 0"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_accelerator():
    assert told("fit", *DIFFUSION, "--trainer.accelerator", "gpu") == "No supported gpu backend found!"


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), FileNotFoundError("scratch"), KeyError("x")]
)
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    def broken(args):
        raise error

    monkeypatch.setattr(command_line, "main", broken)
    with pytest.raises(type(error)):
        run([])


def small_autoencoder(command, root, *options):
    """A tiny autoencoder on the committed shards."""
    network = "--model.init_args.network.init_args"
    return [
        command, "--config", "configs/small/autoencoder.yaml", "--data", "configs/data/small_grid.yaml",
        f"{network}.width", "64", f"{network}.depth", "1", f"{network}.refinement", "0", "--trainer.max_steps", "1",
        "--trainer.limit_val_batches", "1", "--trainer.val_check_interval", "null", "--trainer.logger", "false",
        "--trainer.enable_progress_bar", "false", "--data.init_args.size", "16", "--data.init_args.num_workers", "0",
        "--data.init_args.val_batch_size", "1", "--trainer.default_root_dir", str(root),
        "--model.init_args.initial_weights", "[]", "--model.init_args.lr_scheduler.init_args.warmup_steps", "0",
        *options,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("autoencoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr("sys.argv", ["main.py"])
        main(small_autoencoder("fit", root))
    return root, next(root.rglob("last.ckpt"))


@pytest.mark.filterwarnings("ignore")
def test_validation_leaves_the_training_s_config_alone(trained):
    root, checkpoint = trained
    before = (root / "config.yaml").read_text()
    main(small_autoencoder("validate", root, "--ckpt_path", str(checkpoint)))
    assert (root / "config.yaml").read_text() == before
    assert str(checkpoint) in (root / "validate_AutoencoderTraining.yaml").read_text()


@pytest.mark.filterwarnings("ignore")
def test_checkpoints_that_do_not_fit_are_one_line(trained):
    root, checkpoint = trained
    wider = ["--model.init_args.network.init_args.width", "128", "--ckpt_path", str(checkpoint)]
    line = told(*small_autoencoder("validate", root, *wider))
    assert re.fullmatch(
        r"\S+last.ckpt: checkpoint of another architecture: 'network\.\S+' is \[64.*\] there and \[128.*\] in the .*",
        line,
    )
    deeper = ["--model.init_args.network.init_args.depth", "2", "--ckpt_path", str(checkpoint)]
    line = told(*small_autoencoder("validate", root, *deeper))
    assert re.match(
        r"\S+last.ckpt: checkpoint of another architecture: 'network\.\S+' is absent there and present in",
        line,
    )
    line = told(*small_autoencoder("validate", root, "--ckpt_path", "nope.ckpt"))
    assert line == f"checkpoint 'nope.ckpt' does not exist (in the working directory {str(ROOT)!r})"


def test_a_key_that_only_the_checkpoint_has():
    message = (
        'Error(s) in loading state_dict for X:\n\tUnexpected key(s) in state_dict: "network.a", "network.b". '
    )
    assert "'network.a' is present there and absent in the model" in first_difference(message)


@pytest.mark.filterwarnings("ignore")
def test_an_image_size_that_the_network_cannot_take(tmp_path):
    line = told(*small_autoencoder("fit", tmp_path, "--data.init_args.size", "20"))
    assert line == "images are 20 x 20, both must be divisible by the autoencoder's 8: use 16 x 16 or 24 x 24"
    line = told(
        "fit", "--config", "configs/small/reconstruction_static.yaml", "--trainer.default_root_dir", str(tmp_path),
        "--data", "configs/data/small_reconstruction_static.yaml", "--data.init_args.size", "60",
        "--data.init_args.num_workers", "0", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false",
    )  # fmt: skip
    assert line == "images of 60x60 cannot be cut into patches of 8 pixels"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command, options, line", [
    ("predict", [], "nothing to read: give data.init_args.predict at least one source"),
    ("validate", ["--data.init_args.val", "[]"], "nothing to read: give data.init_args.val at least one source"),
])  # fmt: skip
def test_data_without_what_the_command_needs(tmp_path, command, options, line):
    shared = ["--trainer.default_root_dir", str(tmp_path), "--trainer.logger", "false",
              "--trainer.enable_progress_bar", "false", "--model.init_args.initial_weights", "[]"]  # fmt: skip
    assert told(command, *DIFFUSION, *shared, *options) == line


@pytest.mark.parametrize("line", [
    "trainer.callbacks+: [{class_path: callbacks.MetricsExport, init_args: {path: a.json}}]",
    "model.init_args.network.init_args: {num_layers: 2}",
    "trainer: {max_steps: 3}",
])  # fmt: skip
def test_a_refining_file_loses_no_settings(tmp_path, line):
    (tmp_path / "mine.yaml").write_text(f"config: {ROOT}/configs/small/diffusion_stage2.yaml\n{line}\n")
    assert "would replace" in told("fit", "--config", str(tmp_path / "mine.yaml"), "--print_config")


@pytest.mark.filterwarnings("ignore")
def test_a_schedule_needs_a_number_of_steps(tmp_path):
    options = ["--trainer.max_steps", "-1", "--trainer.max_time", "00:00:00:05"]
    line = told(*small_autoencoder("fit", tmp_path, *options))
    assert line == "lr_scheduler needs the number of optimizer steps: give trainer.max_steps"


@pytest.mark.parametrize("content, fault", [
    (b"", "is empty or holds no settings"), (b"\x95\xff\x00", "is no config file: it holds no text"),
    (b"# nothing\n", "is empty or holds no settings"), (b"just a text", "is empty or holds no settings"),
    (b"a: [1,\n b: {", "is no YAML: while parsing a flow node expected the node content, but found"),
])  # fmt: skip
@pytest.mark.parametrize("option", [
    ["--config"], [*DIFFUSION, "--data"], [*DIFFUSION, "--model.init_args.network"], ["named"],
])  # fmt: skip
def test_a_config_file_without_settings_is_named(tmp_path, content, fault, option):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    if option == ["named"]:  # by another file
        (tmp_path / "outer.yaml").write_text(
            f"config: {ROOT}/configs/small/diffusion_stage2.yaml\ndata: mine.yaml\n"
        )
        option, named = ["--config"], tmp_path / "outer.yaml"
    else:
        named = file
    line = told("fit", *option, str(named), "--print_config")
    assert str(file) in line and fault in line


@pytest.mark.parametrize("option", ["network", "autoencoder", "optimizer", "lr_scheduler"])
@pytest.mark.parametrize("whole", [True, False])
def test_functions_in_place_of_classes_are_refused_before_they_are_called(tmp_path, option, whole):
    command = {"class_path": "os.system", "init_args": {"command": f"touch {tmp_path}/called"}}
    value = json.dumps(command) if whole else "os.system"
    line = told("fit", *DIFFUSION, f"--model.init_args.{option}", value, "--trainer.max_steps", "1")
    assert "system" in line and option in line and not list(tmp_path.iterdir())


def test_from_config_refuses_what_the_command_line_refuses(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"config: {ROOT}/configs/small/diffusion_stage2.yaml\nmodel: {{init_args: {{compile: true}}}}\n"
    )
    with pytest.raises(ValueError, match="mine.yaml: 'model' would replace all that .* says about it"):
        from_config(str(file))


@pytest.mark.filterwarnings("ignore")
def test_another_working_directory_is_named_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = told("fit", "--config", f"{ROOT}/configs/small/diffusion_stage1.yaml")
    assert "no shard found at 'assets/small/" in line and f"the working directory, {tmp_path}" in line
    data = ["--data.init_args.train_defaults.root", f"{ROOT}/assets/small/shards"]
    data += ["--data.init_args.val_defaults.root", f"{ROOT}/assets/small/shards"]
    line = told("fit", "--config", f"{ROOT}/configs/small/diffusion_stage1.yaml", *data)
    assert re.match(rf"weights file 'assets/\S+' does not exist in the working directory '{tmp_path}'", line)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=f"does not exist in the working directory '{tmp_path}'"):
        from_config(f"{ROOT}/configs/small/shipped_diffusion.yaml")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limit, logger", [(1000, "false"), (400_000, "false"), (200, "true")])
def test_a_full_disk_is_one_line_that_names_what_could_not_be_written(tmp_path, limit, logger):
    """The config, the checkpoint, TensorBoard."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        line = told(*small_autoencoder("fit", tmp_path, "--trainer.logger", logger))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert re.fullmatch(rf"'{tmp_path}\S*': File too large", line), line
    assert not list(tmp_path.rglob(".*.tmp")) and not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.filterwarnings("ignore")
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    line = told(*small_autoencoder("fit", tmp_path / "file" / "run"))
    assert re.fullmatch(rf"'{tmp_path}/file\S*': (Not a directory|File exists)", line), line

"""A run that ends early goes on where it was: with the same bits, the same validations, and no second file."""

import os
import signal
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from torch import nn
from torch.utils.data import DataLoader

from callbacks import ExponentialMovingAverage, LastCheckpoint
from callbacks.checkpoint_files import WholeCheckpoints
from callbacks.preemption import leave_signals_alone, with_last_checkpoint
from scene4d import interruption
from scene4d.interruption import Interrupted, stop_by_signal


class Endless:
    """Batch k holds k; it goes on where it was."""

    def __init__(self) -> None:
        self.taken = 0

    def __len__(self) -> int:
        return 10**9

    def __iter__(self):
        while True:
            self.taken += 1
            yield torch.full((2, 3), self.taken / 10)

    def state_dict(self):
        return {"taken": self.taken}

    def load_state_dict(self, state):
        self.taken = state["taken"]


def wait_until_it_is_there() -> None:
    """A signal may reach another thread of this process, a moment later."""
    deadline = time.monotonic() + 5
    while interruption.asked() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def start_anew() -> None:
    """As in a new process, which has received nothing yet."""
    signal.sigtimedwait({signal.SIGUSR1}, 0)
    stop_by_signal()


class Line(L.LightningModule):
    """Counts what it does; `at` sends a signal or raises at a moment ("train", step) or ("val", step)."""

    def __init__(self, at=None, what=signal.SIGTERM) -> None:
        super().__init__()
        self.network, self.at, self.what = nn.Linear(3, 1), at, what
        self.validated: list[int] = []

    def now(self, stage: str) -> None:
        if self.at == (stage, self.global_step):
            if isinstance(self.what, BaseException):
                raise self.what
            os.kill(os.getpid(), self.what)
            wait_until_it_is_there()

    def training_step(self, batch, index):
        self.now("train")
        return (self.network(batch) - batch.sum()).square().mean()

    def validation_step(self, batch, index):
        self.now("val")
        self.log("val/loss", self.network(batch).mean())

    def on_validation_epoch_end(self):
        self.validated.append(self.global_step)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.network.parameters(), lr=0.1)


@pytest.fixture(autouse=True)
def handlers():
    """Signals as in main.py; pytest's own afterwards."""
    before = {signum: signal.getsignal(signum) for signum in (*interruption.SIGNALS, signal.SIGCHLD)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    stop_by_signal()
    yield
    start_anew()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for signum, handler in before.items():
        signal.signal(signum, handler)
    interruption._state.__init__()


def fit(
    root,
    steps=8,
    at=None,
    what=signal.SIGTERM,
    resume=None,
    every=None,
    batches=1,
    more=(),
    logger=False,
    **options,
):
    torch.manual_seed(0)
    model = Line(at, what)
    options = {"val_check_interval": 4, "check_val_every_n_epoch": None} | options
    trainer = L.Trainer(
        default_root_dir=root, max_steps=steps, accelerator="cpu", devices=1, logger=logger, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, accumulate_grad_batches=batches,
        plugins=[WholeCheckpoints()], log_every_n_steps=1,
        callbacks=[ExponentialMovingAverage(0.5), LastCheckpoint(every_n_train_steps=every), *more], **options,
    )  # fmt: skip
    leave_signals_alone(trainer)
    trainer.fit(model, Endless(), DataLoader(torch.ones(4, 3), batch_size=2), ckpt_path=resume)
    return trainer, model


def last(root) -> Path:
    return root / "checkpoints/last.ckpt"


def state(path):
    return torch.load(path, weights_only=True)


def same_weights(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("whole"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("signum, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
@pytest.mark.parametrize("moment, step, due", [
    (("train", 1), 2, False),  # between two checkpoints
    (("train", 3), 4, True),  # the step before a validation, which must not be lost
    (("val", 4), 4, True),  # within a validation
    (("train", 7), 8, True),  # the last step, whose validation is missing
    (("val", 8), 8, True),
])  # fmt: skip
def test_a_signal_ends_with_its_status_and_the_run_goes_on_exactly(
    tmp_path, whole, signum, code, moment, step, due
):
    with pytest.raises(Interrupted) as end:
        fit(tmp_path, at=moment, what=signum)
    assert end.value.code == code
    assert end.value.after == (
        step if moment[0] == "train" else None
    )  # within a validation each rank ends alone
    saved = state(last(tmp_path))
    assert saved["global_step"] == step and saved["callbacks"]["LastCheckpoint"]["validation_due"] == due
    start_anew()
    trainer, model = fit(tmp_path, resume=last(tmp_path))
    assert trainer.global_step == trainer.max_steps == 8
    assert model.validated == [k for k in (4, 8) if k > step or (due and k == step)]
    same_weights(model, whole[1])
    assert [p.name for p in last(tmp_path).parent.iterdir()] == ["last.ckpt"]


@pytest.mark.filterwarnings("ignore")
def test_a_warning_during_the_start_ends_the_run_before_its_first_step(tmp_path, whole):
    """SIGUSR1 waits until training begins; the checkpoint that the run would go on from stays as it is."""
    with pytest.raises(Interrupted) as end:
        fit(tmp_path / "new", at=None, more=[Warned()])
    assert (end.value.code, end.value.after) == (138, 0) and not (tmp_path / "new/checkpoints").exists()
    start_anew()
    fit(tmp_path, steps=3)
    start_anew()
    before = last(tmp_path).read_bytes()
    with pytest.raises(Interrupted) as end:
        fit(tmp_path, resume=last(tmp_path), more=[Warned()])
    assert end.value.after == 0 and last(tmp_path).read_bytes() == before
    start_anew()
    same_weights(fit(tmp_path, resume=last(tmp_path))[1], whole[1])


class Warned(L.Callback):
    def on_fit_start(self, trainer, pl_module):
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_until_it_is_there()


@pytest.mark.filterwarnings("ignore")
def test_a_warning_after_the_last_step_has_no_effect(tmp_path, whole):
    class Late(L.Callback):
        def on_fit_end(self, trainer, pl_module):
            os.kill(os.getpid(), signal.SIGUSR1)

    same_weights(fit(tmp_path, more=[Late()])[1], whole[1])


EPOCHS = {"limit_train_batches": 3, "val_check_interval": 1.0, "check_val_every_n_epoch": 1}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("length", [{"steps": -1, "max_epochs": 3}, {"steps": 8}], ids=["epochs", "steps"])
@pytest.mark.parametrize("moment", [("train", 2), ("val", 3), ("val", 6)])
def test_a_validation_at_the_end_of_an_epoch_is_repeated_and_the_next_epochs_come(tmp_path, length, moment):
    _, whole = fit(tmp_path / "whole", **length, **EPOCHS)
    with pytest.raises(Interrupted):
        fit(tmp_path, at=moment, **length, **EPOCHS)
    stop_by_signal()
    trainer, model = fit(tmp_path, resume=last(tmp_path), **length, **EPOCHS)
    assert trainer.global_step == (9 if "max_epochs" in length else 8)
    assert model.validated == [k for k in whole.validated if k >= moment[1]]
    same_weights(model, whole)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("validation", [4, 8])
def test_a_validation_that_was_killed_is_repeated_and_logged_at_its_step(tmp_path, whole, validation):
    from lightning.pytorch.loggers import CSVLogger

    def rows(root):
        lines = (root / "metrics.csv").read_text().splitlines()
        places = [lines[0].split(",").index(name) for name in ("step", "val/loss")]
        return [tuple(line.split(",")[k] for k in places) for line in lines[1:] if line.split(",")[places[1]]]

    fit(tmp_path / "whole", logger=CSVLogger(tmp_path / "whole", "", ""))
    with pytest.raises(OSError):  # a kill leaves what is on the disk at that moment
        fit(tmp_path, at=("val", validation), what=OSError("killed"), every=1)
    trainer, model = fit(tmp_path, resume=last(tmp_path), logger=CSVLogger(tmp_path / "b", "", ""))
    assert model.validated == [k for k in (4, 8) if k >= validation]
    same_weights(model, whole[1])
    assert rows(tmp_path / "b") == rows(tmp_path / "whole")[-len(model.validated) :]
    assert state(last(tmp_path))["callbacks"]["LastCheckpoint"]["validation_due"] is False


@pytest.mark.filterwarnings("ignore")
def test_the_last_step_of_a_finished_run_is_saved_and_the_run_can_be_made_longer(tmp_path):
    _, longer = fit(tmp_path / "longer", steps=11)
    fit(tmp_path, steps=6)
    assert state(last(tmp_path))["global_step"] == 6
    trainer, model = fit(tmp_path, steps=11, resume=last(tmp_path))
    assert trainer.global_step == 11 and model.validated == [8]
    same_weights(model, longer)


@pytest.mark.filterwarnings("ignore")
def test_a_finished_run_repeats_nothing(tmp_path):
    fit(tmp_path)
    before = last(tmp_path).stat().st_mtime_ns
    _, model = fit(tmp_path, resume=last(tmp_path))
    assert model.validated == [] and last(tmp_path).stat().st_mtime_ns == before


@pytest.mark.filterwarnings("ignore")
def test_gradients_that_are_accumulated_are_not_torn_apart(tmp_path):
    _, whole = fit(tmp_path / "whole", batches=3)
    with pytest.raises(Interrupted):
        fit(tmp_path, at=("train", 1), batches=3)
    assert state(last(tmp_path))["global_step"] == 2
    stop_by_signal()
    same_weights(fit(tmp_path, batches=3, resume=last(tmp_path))[1], whole)


@pytest.mark.filterwarnings("ignore")
def test_a_signal_during_a_save_leaves_the_new_checkpoint(tmp_path, monkeypatch):
    save = torch.save

    def asked(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        save(*args)

    monkeypatch.setattr("callbacks.checkpoint_files.torch.save", asked)
    with pytest.raises(Interrupted):
        fit(tmp_path, every=2)
    assert state(last(tmp_path))["global_step"] in (2, 3)


@pytest.mark.filterwarnings("ignore")
def test_a_new_run_in_the_same_folder_leaves_the_old_checkpoint(tmp_path, caplog):
    caplog.set_level("INFO")
    fit(tmp_path, steps=2)
    before = last(tmp_path).read_bytes()
    fit(tmp_path, steps=3)
    assert last(tmp_path).read_bytes() == before and state(last(tmp_path).with_name("last-v1.ckpt"))
    assert "holds the checkpoint of another run: this one writes last-v1.ckpt" in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    import resource

    fit(tmp_path, steps=2)
    before = last(tmp_path).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(OSError) as end:
            fit(tmp_path, steps=4, resume=last(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert end.value.filename == str(last(tmp_path)) and end.value.strerror == "File too large"
    assert last(tmp_path).read_bytes() == before and os.listdir(last(tmp_path).parent) == ["last.ckpt"]


def test_trainings_always_keep_a_last_checkpoint_and_one_alone():
    own = LastCheckpoint(every_n_train_steps=5)
    assert [c for c in with_last_checkpoint([own]) if isinstance(c, LastCheckpoint)] == [own]
    added = with_last_checkpoint([ModelCheckpoint()])
    assert sum(isinstance(c, LastCheckpoint) for c in added) == 1
    with pytest.raises(ValueError, match="every_n_train_steps must be at least 1, got 0"):
        LastCheckpoint(every_n_train_steps=0)


def test_lightning_s_own_handler_has_the_name_that_we_replace():
    """A private name; this fails when it is gone."""
    assert callable(_SignalConnector.register_signal_handlers)

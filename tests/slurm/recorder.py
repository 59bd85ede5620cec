"""Writes down what every rank trains on, and lets a run wait at a chosen moment until it is told to stop."""

import json
import os
import signal
import time
from pathlib import Path

import lightning as L

from scene4d.interruption import asked

RESTART = os.environ.get("SLURM_RESTART_COUNT") or os.environ.get("TORCHELASTIC_RESTART_COUNT") or "0"


class Recorder(L.Callback):
    """Appends step, loss and keys to `rank_R.jsonl` in the run's folder.

    `moments.json` beside it, {"1": ["train", 3]} for example, lets the run wait for a signal in its step 3 after the
    first restart; "val" is a validation at that step, and "kill" kills rank 1.
    """

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.wait("train", trainer)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.write(trainer, {"validates": trainer.global_step})
        self.wait("val", trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        found = {
            "step": trainer.global_step,
            "loss": outputs["loss"].item(),
            "keys": [batch.source, batch.keys],
        }
        self.write(trainer, found)

    def write(self, trainer, found):
        path = Path(trainer.default_root_dir) / f"rank_{trainer.global_rank}.jsonl"
        with path.open("a") as file:
            file.write(json.dumps({"restart": RESTART, **found}) + "\n")

    def wait(self, what, trainer):
        folder = Path(trainer.default_root_dir)
        moment = json.loads((folder / "moments.json").read_text()).get(RESTART)
        if moment == ["kill", trainer.global_step] and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if moment != [what, trainer.global_step]:
            return
        (folder / f"waits_{RESTART}_{trainer.global_rank}").touch()
        deadline = time.monotonic() + 120
        while asked() is None:
            assert time.monotonic() < deadline, "no signal has come"
            time.sleep(0.05)

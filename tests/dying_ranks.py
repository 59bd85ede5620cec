"""Two ranks, as Lightning starts them, of which one dies; `callbacks/test_ranks.py` starts it.

    python tests/dying_ranks.py MODE FOLDER

Each rank writes its process id into FOLDER. First rank 1 is late with a prediction. Then a training begins, and in its
second step a rank ends by MODE: kill_0, kill_1 or raise_1. The other one does not wait in a collective: it sleeps.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader

ROOT = Path(__file__).parents[1]
# not through the package, which imports all callbacks and takes three times as long
SPEC = importlib.util.spec_from_file_location("ranks", ROOT / "callbacks" / "ranks.py")
ranks = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(ranks)


class Dying(L.LightningModule):
    def __init__(self, mode: str, folder: Path) -> None:
        super().__init__()
        self.mode, self.folder, self.network = mode, folder, nn.Linear(1, 1)

    def predict_step(self, batch, index):
        if self.global_rank == 1 and index == 0:
            time.sleep(2)
            (self.folder / "late").touch()

    def training_step(self, batch, index):
        if index == 1:
            self.end()
        return self.network(batch).sum()

    def end(self) -> None:
        how, rank = self.mode.split("_")
        if self.global_rank != int(rank):
            time.sleep(60)
        elif how == "raise":
            raise ValueError("this rank gives up")
        os.kill(os.getpid(), signal.SIGKILL)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer() -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False, max_steps=3,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        callbacks=[ranks.OneEnd()],
    )  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    mode, folder = sys.argv[1], Path(sys.argv[2])
    (folder / f"pid_{os.environ.get('LOCAL_RANK', '0')}").write_text(str(os.getpid()))
    module, data = Dying(mode, folder), DataLoader(torch.ones(4, 1), batch_size=1)
    trainer().predict(module, data)
    assert (folder / "late").exists(), "rank 0 did not wait for rank 1"
    (folder / "waited").touch()
    trainer().fit(module, data)

"""The folders of predicted scenes: one for each scene, below the output folder, whatever its key and the rank."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sized
from hashlib import blake2b
from pathlib import Path

import lightning as L

from scene4d.file_names import FreeNames
from scene4d.types import SceneBatch

CLAIMS = ".scenes-of-this-run"  # where the ranks see each other's folders


class SceneFolders:
    """Names the folder of every scene of one run: `<output>/<key>`, for a second scene of that key `<output>/<key>_2`.

    A rerun gives the same names on one rank. On several ranks, which of two scenes with the same key comes first is
    left to chance. Keys become names that stay in the output folder, see `scene4d.file_names.safe_name`.

    Args:
        output: The folder, relative to the trainer's default_root_dir.
        subfolders: Whether every scene gets a folder of its own; None means where the data has more than one batch.
    """

    def __init__(self, output: str, subfolders: bool | None) -> None:
        self.output, self.wanted, self.subfolders = output, subfolders, bool(subfolders)
        self.names, self.written = FreeNames(), list[str]()

    def start(self, trainer: L.Trainer, limit: float = math.inf) -> None:
        """Forgets earlier runs. All ranks call it together.

        Args:
            trainer: Knows how many batches come.
            limit: The largest number of scenes that will be written.

        Raises:
            ValueError: There are no subfolders, although more than one batch will come.
        """
        self.names, self.written = FreeNames(), []
        self.subfolders = several_batches(trainer) if self.wanted is None else self.wanted
        count = min(limit, sum(trainer.num_predict_batches))
        if not self.subfolders and 1 < count < math.inf:  # infinite: of a length that is unknown
            raise ValueError(
                f"subfolders: false takes one scene, and at least {count} come; set subfolders: true"
            )
        if trainer.world_size > 1:
            claims = self._root(trainer) / CLAIMS
            if trainer.is_global_zero:
                shutil.rmtree(claims, ignore_errors=True)
                claims.mkdir(parents=True)
            trainer.strategy.barrier("scene folders")
            self.names = FreeNames(claims)

    def end(self, trainer: L.Trainer) -> None:
        """Removes what the ranks told each other. All ranks call it together."""
        if trainer.world_size > 1:
            trainer.strategy.barrier("scene folders")
            if trainer.is_global_zero:
                shutil.rmtree(self._root(trainer) / CLAIMS, ignore_errors=True)

    def is_repeated(self, batch: object, index: int) -> bool:
        """Whether a rank of this run has written this very scene: data repeats some to give all ranks equally many.

        Args:
            batch: What was predicted from; anything but a `SceneBatch` is never repeated.
            index: Number of the scene in the batch.
        """
        if self.names.claims is None or not isinstance(batch, SceneBatch) or not batch.keys:
            return False
        content = blake2b(batch.images[index].float().cpu().numpy().tobytes()).hexdigest()
        return not self.names.claim(f"{batch.source[index]}/{batch.keys[index]}/{content}")

    @staticmethod
    def share(trainer: L.Trainer, limit: int) -> int:
        """How many of the first `limit` scenes are this rank's, which come to the ranks in turn."""
        place = trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}  # ranks may share scenes
        return max(0, -(-(limit - place["rank"]) // place["num_replicas"]))

    def next(self, trainer: L.Trainer, key: str) -> Path:
        """The folder of one more scene.

        Raises:
            ValueError: A second scene came, although there are no subfolders.
        """
        root = self._root(trainer)
        if self.subfolders:
            folder = root / self.names.take(key)
        elif self.names.claim("."):
            folder = root
        else:
            first = repr(self.written[0]) if self.written else "the scene of another process"
            raise ValueError(f"{root} already holds {first}; set subfolders: true for more than one scene")
        self.written.append(key)
        return folder

    def _root(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / self.output


def several_batches(trainer: L.Trainer) -> bool:
    """Whether what is predicted has more than one batch, or a length that is unknown; the same on every rank."""
    loaders = trainer.predict_dataloaders
    loaders = loaders if isinstance(loaders, (list, tuple)) else [loaders]
    datasets = [getattr(loader, "dataset", loader) for loader in loaders]
    counts = [len(data) if isinstance(data, Sized) else 2 for data in datasets]  # 2: unknown, perhaps many
    return sum(counts) > 1

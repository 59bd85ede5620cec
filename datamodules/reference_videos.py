"""A user's own videos and prompts as grids to be generated: for prediction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules.middle_cut import Size
from datamodules.reference_checks import SharedFrame
from datamodules.reference_grid import GridReader, ReferenceScene
from datamodules.scene_lists import list_scenes
from scene4d.types import SceneBatch


class ReferenceVideos(LightningDataModule):
    """Reads videos as a grid to be generated: row 0 is a fixed-view video, column 0 a freeze-time video.

    Either video may be missing, and with a prompt both may. The videos may have any format that PyAV decodes, any
    shape and any rate. Of every frame, turned as its display matrix says and with square pixels, the largest middle
    part of the shape of `size` is cut out and scaled with antialiasing to `size`; one line per video says so.

    Args:
        fixed_view: Video file of the moving scene by one camera that stands still. It is read from its first frame
            on, at `fps` whatever its own rate: the frame nearest in time is taken, with the time it has in the file.
            Without it the row is generated, with `frames` frames.
        freeze_time: Video file of the first moment of the fixed-view video, one frame per view. Its first frame
            should show the same as the first frame of the fixed-view video. Its rate does not matter. Without it the
            column is generated, with `views` views.
        size: Height and width of the grid, one number for squares or `[height, width]`; autoencoders ask for
            multiples of 8 or 16.
        frames: Largest number of frames of the fixed-view video that are taken, 4k + 1. A shorter video gives fewer,
            at least 5.
        views: Largest number of frames of the freeze-time video that are taken, evenly spaced from its first to its
            last.
        fps: Frames per second that the model was trained on.
        key: Name of the scene, and of its output folder. The noise of the sample depends on it.
        shared_frame: What to do if the first frames of both videos differ. `refuse` warns below a PSNR of 24 dB and
            ends with an error below 12 dB, `warn` only warns, and `ignore` does not look. The first two also warn if
            the camera of the fixed-view video seems to move, or if the two videos seem to be swapped.
        prompt: Caption of the scene; needs a model with a text encoder.
        scenes: CSV file or folder of many scenes, see `datamodules.scene_lists.list_scenes`. It takes the place of
            `fixed_view`, `freeze_time`, `prompt` and `key`. Every scene is read when it is its
            turn, after the length and the first frame of every video were looked at. A later failure ends the run.

    Raises:
        ValueError: A number is out of range, or nothing is given; names it.
    """

    def __init__(
        self,
        fixed_view: str | None = None,
        freeze_time: str | None = None,
        size: Size = 64,
        frames: int = 17,
        views: int = 4,
        fps: float = 12.0,
        key: str = "scene",
        shared_frame: SharedFrame = "refuse",
        prompt: str = "",
        scenes: str | None = None,
    ) -> None:
        super().__init__()
        if scenes is not None and (fixed_view or freeze_time or prompt):
            raise ValueError(
                f"scenes is {scenes!r}, which takes the place of fixed_view, freeze_time and prompt: give either"
            )
        self.reader = GridReader(size, frames, views, fps, shared_frame)
        self.scene = None if scenes is not None else ReferenceScene(key, fixed_view, freeze_time, prompt)
        self.scenes, self.dataset = scenes, _Scenes(self.reader, [])
        self.batch: SceneBatch | None = None

    def setup(self, stage: str) -> None:
        """Reads the videos of the only scene, or looks whether those of all scenes can be read."""
        if self.scene is not None:
            self.batch = self.read()
        elif self.scenes is not None:
            self.dataset = _Scenes(self.reader, list_scenes(self.scenes))
            self.dataset.check()

    def read(self) -> SceneBatch:
        """Reads the only scene as a batch of one grid, white where frames are to be generated.

        Raises:
            ValueError: A video is missing, unreadable or too short, or the two contradict each other; names it.
        """
        assert self.scene is not None, "there are many scenes"
        return self.reader.read(self.scene)

    def predict_dataloader(self) -> DataLoader:
        """Batches of one scene."""
        if self.batch is not None:
            return DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]  # a list will do
        return DataLoader(self.dataset, batch_size=None)


class _Scenes(Dataset[SceneBatch]):
    """Scenes that are read when they are asked for."""

    def __init__(self, reader: GridReader, scenes: list[ReferenceScene]) -> None:
        self.reader, self.scenes = reader, scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> SceneBatch:
        with _naming(self.scenes[index]):
            return self.reader.read(self.scenes[index])

    def check(self) -> None:
        """Looks at every video before anything is generated.

        Raises:
            ValueError: One is unreadable or too short; names the scene and the file.
        """
        for scene in self.scenes:
            with _naming(scene):
                self.reader.check(scene)


@contextmanager
def _naming(scene: ReferenceScene) -> Iterator[None]:
    """Adds the scene to the message of an error."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"scene {scene.key!r}: {error}") from error


def read_references(
    fixed_view: str | None = None,
    freeze_time: str | None = None,
    size: Size = 64,
    frames: int = 17,
    views: int = 4,
    fps: float = 12.0,
    key: str = "scene",
    shared_frame: SharedFrame = "refuse",
    prompt: str = "",
) -> SceneBatch:
    """Reads videos as the grid to be generated; arguments and errors are those of `ReferenceVideos`."""
    return ReferenceVideos(
        fixed_view, freeze_time, size, frames, views, fps, key, shared_frame, prompt
    ).read()

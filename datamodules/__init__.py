"""Loads shards of scenes as batches of view x time grids."""

from datamodules.augmentation import GridAugmentation
from datamodules.grid_files import GridFiles
from datamodules.homography import HomographyViews
from datamodules.reference_videos import ReferenceVideos, read_references
from datamodules.references import ReferencePolicy
from datamodules.scenes import SceneDataModule
from datamodules.selection import ContextSelection, GridSelection
from datamodules.sources import Source, SourceDefaults
from datamodules.synchronized_views import SynchronizedViews, read_views

__all__ = [
    "ContextSelection",
    "GridAugmentation",
    "GridFiles",
    "GridSelection",
    "HomographyViews",
    "ReferencePolicy",
    "ReferenceVideos",
    "SceneDataModule",
    "Source",
    "SourceDefaults",
    "SynchronizedViews",
    "read_references",
    "read_views",
]

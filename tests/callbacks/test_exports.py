"""Grid, Gaussian and metrics exports, pictures and throughput, through a Trainer."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from callbacks import GaussianExport, GridExport, GridLogging, MetricsExport, Throughput
from callbacks.grid_export import frame_rate
from scene4d.evaluation.rows import Row
from scene4d.gaussians.ply import read_ply
from scene4d.geometry.trajectories import arc
from scene4d.grid_format import read_grid
from scene4d.rendering.path_videos import look_target, path_video
from scene4d.types import Cameras, Gaussians, Reconstruction, SceneBatch

B, V, T, SIZE = 2, 3, 4, 16


def scene_batch(first: int = 0) -> SceneBatch:
    generator = torch.Generator().manual_seed(first)
    reference = torch.zeros(B, V, T, dtype=torch.bool)
    reference[:, 0] = True
    return SceneBatch(
        images=torch.rand(B, V, T, 3, SIZE, SIZE, generator=generator),
        cameras=None,
        frame_times=torch.arange(T).float().expand(B, T) / 12,
        reference=reference,
        source=["objects", "static"],
        keys=[f"scene_{first + k}" for k in range(B)],
    )


def ring_cameras() -> Cameras:
    intrinsics = torch.tensor([[20.0, 0, SIZE / 2], [0, 20.0, SIZE / 2], [0, 0, 1]])
    return Cameras(arc(V, 0, 40, 10, 0, 3.0), intrinsics.expand(V, 3, 3))


def ball(t: int, radius: float = 0.2, count: int = 200) -> Gaussians:
    """A red ball at the origin, the same at every timestep."""
    means = radius * torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return Gaussians(
        means=means.expand(t, count, 3),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(t, count, 4),
        scales=torch.full((t, count, 3), 0.05),
        opacities=torch.full((t, count), 0.9),
        colors=torch.tensor([1.0, 0, 0]).expand(t, count, 3),
    )


class Fake(L.LightningModule):
    """Returns what a test gives it."""

    def __init__(self, predict=None) -> None:
        super().__init__()
        self.network, self.predict = nn.Linear(1, 1), predict
        self.results: dict = {}
        self.pictures: dict = {}
        self.validation_pictures = {"grid_objects": torch.full((3, 6, 10), 0.5)}

    def training_step(self, batch, index):
        return self.network(batch.images.mean().view(1, 1)).sum()

    def validation_step(self, batch, index):
        pass

    def on_validation_epoch_end(self):
        self.results = {"diffusion": [Row("objects", "sample", "lpips_vgg", 0.5, 2)]}
        self.pictures = self.validation_pictures

    def predict_step(self, batch, index):
        return self.predict(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches(n: int) -> DataLoader:
    return DataLoader([scene_batch(k * B) for k in range(n)], batch_size=None)


def trainer(folder, *callbacks, logger=False, **options) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder, callbacks=list(callbacks), accelerator="cpu", logger=logger, max_epochs=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **options,
    )  # fmt: skip


def read_video(path) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate)
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]), rate


def test_a_scene_that_is_written_again_is_complete_only_at_the_end(tmp_path, monkeypatch):
    """A rerun that ends in the middle must not leave the earlier run's mark of completeness."""
    export = GridExport(".", view_videos=False, time_videos=False)
    export.write(tmp_path, scene_batch(), 0)
    assert (tmp_path / "grid.safetensors").exists()
    monkeypatch.setattr("callbacks.grid_export.write_grid", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        export.write(tmp_path, scene_batch(2), 0)
    assert not (tmp_path / "grid.safetensors").exists()


def test_grids_are_written_and_read_back(tmp_path):
    trainer(tmp_path, GridExport(str(tmp_path / "out"), enlarge=2)).predict(Fake(lambda b: b), batches(2))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"scene_{k}" for k in range(4)]
    grid = read_grid(tmp_path / "out" / "scene_3" / "grid.safetensors")
    assert (grid.images[0] - scene_batch(2).images[1]).abs().max() <= 0.5 / 255 + 1e-6
    frames, rate = read_video(tmp_path / "out" / "scene_3" / "grid.mp4")
    assert frames.shape == (T, 2 * SIZE, 2 * (V * SIZE + 2 * 2), 3) and rate == pytest.approx(12, abs=0.01)


def test_one_scene_goes_straight_into_the_folder(tmp_path):
    export = GridExport(str(tmp_path / "out"), subfolders=False, limit=1)
    for _ in range(2):  # repeatable
        trainer(tmp_path, export).predict(Fake(lambda b: b), batches(1))
    names = ["grid.mp4", "grid.png", "grid.safetensors", "times", "views"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    with pytest.raises(ValueError, match="already holds 'scene_0'"):
        trainer(tmp_path, GridExport(str(tmp_path / "out"), subfolders=False)).predict(
            Fake(lambda b: b), batches(1)
        )


def test_scenes_without_folders_of_their_own_are_refused_before_the_first(tmp_path):
    with pytest.raises(ValueError, match="subfolders: false takes one scene, and at least 3 come"):
        trainer(tmp_path, GridExport("out", subfolders=False)).predict(Fake(lambda b: b), batches(3))
    assert not (tmp_path / "out").exists()
    trainer(tmp_path, GridExport("out", subfolders=False, limit=1)).predict(Fake(lambda b: b), batches(3))
    assert (tmp_path / "out/grid.safetensors").exists()


def test_one_video_per_view_and_per_time_at_the_grid_s_own_size(tmp_path):
    trainer(tmp_path, GridExport("out", enlarge=2)).predict(Fake(lambda b: b), batches(1))
    scene = scene_batch().images[1]
    for folder, names, videos, rate in (
        ("views", [f"view_{k:02d}.mp4" for k in range(V)], scene, 12),
        ("times", [f"time_{k:03d}.mp4" for k in range(T)], scene.transpose(0, 1), 4),
    ):
        folder = tmp_path / "out" / "scene_1" / folder
        assert sorted(path.name for path in folder.iterdir()) == names
        for name, video in zip(names, videos):
            frames, found = read_video(folder / name)
            assert frames.shape == (len(video), SIZE, SIZE, 3) and found == pytest.approx(rate, abs=0.01)
            brightness = torch.from_numpy(frames).float().mean((1, 2, 3)) / 255
            assert (brightness - video.mean((1, 2, 3))).abs().max() < 0.02


def test_a_shorter_run_leaves_no_video_of_a_longer_one(tmp_path):
    long = scene_batch().sample(0)
    short = replace(long, images=long.images[:, :2, :3], frame_times=long.frame_times[:, :3],
                    reference=long.reference[:, :2, :3])  # fmt: skip
    (tmp_path / "out" / "views").mkdir(parents=True)
    (tmp_path / "out" / "views" / "mine.mp4").touch()
    for scene in (long, short):
        loader = DataLoader([scene], batch_size=None)
        trainer(tmp_path, GridExport("out", None)).predict(Fake(lambda b: b), loader)
    names = sorted(path.name for path in (tmp_path / "out").rglob("*_0*.mp4"))
    assert names == ["time_000.mp4", "time_001.mp4", "time_002.mp4", "view_00.mp4", "view_01.mp4"]
    assert (tmp_path / "out" / "views" / "mine.mp4").exists()


def test_outputs_can_be_switched_off(tmp_path):
    export = GridExport("out", sheets=False, view_videos=False, time_videos=False, limit=1)
    trainer(tmp_path, export).predict(Fake(lambda b: b), batches(1))
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == ["grid.safetensors"]
    with pytest.raises(ValueError, match="enlarge must be at least 1, got 0"):
        GridExport("out", enlarge=0)


def test_the_still_sheet_has_an_outline_around_given_frames(tmp_path):
    trainer(tmp_path, GridExport("out", limit=1)).predict(Fake(lambda b: b), batches(1))
    picture = Image.open(tmp_path / "out" / "scene_0" / "grid.png")
    assert picture.size == (3 * (T * SIZE + 2 * (T - 1)), 3 * (V * SIZE + 2 * (V - 1)))  # three times
    orange = (242, 115, 26)
    assert [picture.getpixel((0, 3 * (SIZE + 2) * view)) == orange for view in range(V)] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("count, folders", [(1, ["."]), (3, ["scene_0", "scene_1", "scene_2"])])
def test_a_folder_per_scene_where_there_are_several(tmp_path, count, folders):
    scenes = [replace(scene_batch().sample(0), keys=[f"scene_{k}"]) for k in range(count)]
    export = GridExport("out", subfolders=None)
    for _ in range(2):
        trainer(tmp_path, export).predict(Fake(lambda b: b), DataLoader(scenes, batch_size=None))
    found = sorted(
        str(path.parent.relative_to(tmp_path / "out")) for path in tmp_path.rglob("grid.safetensors")
    )
    assert found == folders


def test_the_grid_that_others_read_is_written_last(tmp_path, monkeypatch):
    def interrupted(*_):
        raise RuntimeError("interrupted")

    monkeypatch.setattr("callbacks.grid_export.write_video", interrupted)
    with pytest.raises(RuntimeError, match="interrupted"):
        trainer(tmp_path, GridExport("out", subfolders=False, limit=1)).predict(Fake(lambda b: b), batches(1))
    assert not (tmp_path / "out" / "grid.safetensors").exists()


def test_predictions_of_another_kind_are_refused(tmp_path):
    for callback in (GridExport(str(tmp_path)), GaussianExport(str(tmp_path))):
        with pytest.raises(ValueError, match="predict_step returned Tensor"):
            trainer(tmp_path, callback).predict(Fake(lambda b: b.images), batches(1))


def test_frame_rate():
    assert frame_rate([0.0, 0.25, 0.5]) == pytest.approx(4)
    assert frame_rate([0.0]) == frame_rate([]) == frame_rate([0.0, 0.0]) == 12


def test_gaussians_are_written(tmp_path):
    def predict(batch: SceneBatch) -> Reconstruction:
        cameras, scene = ring_cameras(), ball(T)
        double = lambda x: torch.stack([x, x])  # noqa: E731
        return Reconstruction(
            cameras.apply(double),
            scene.apply(double),
            torch.ones(2, 3),
            frame_times=batch.frame_times,
            keys=batch.keys,
        )

    old = tmp_path / "out" / "scene_1" / "frames" / "frame_0099.ply"
    old.parent.mkdir(parents=True)
    old.write_text("of an earlier run")
    trainer(tmp_path, GaussianExport(str(tmp_path / "out"), orbit_rounds=2, enlarge=2)).predict(
        Fake(predict), batches(1)
    )
    folder = tmp_path / "out" / "scene_1"
    names = sorted(p.name for p in (folder / "frames").iterdir())
    assert names == [f"frame_{k:04d}.ply" for k in range(1, T + 1)]
    torch.testing.assert_close(read_ply(folder / "frames" / names[0]).means, ball(1).means[0])
    cameras = json.loads((folder / "cameras.json").read_text())
    assert cameras["fps"] == pytest.approx(12) and cameras["height"] == SIZE and len(cameras["cameras"]) == V
    torch.testing.assert_close(torch.tensor(cameras["cameras"][2]["c2w"]), ring_cameras().c2w[2])
    frames, _ = read_video(folder / "orbit.mp4")
    assert frames.shape == (2 * T, 2 * SIZE, 2 * SIZE, 3)
    assert "scene" in (folder / "viewer.html").read_text().lower()


def test_formats_videos_and_a_capture_are_written_where_they_are_wanted(tmp_path):
    def predict(batch: SceneBatch) -> Reconstruction:
        cameras, scene = (x.apply(lambda y: y[None]) for x in (ring_cameras(), ball(T)))
        return Reconstruction(cameras, replace(scene, blurred=True), torch.ones(1, 3), keys=["a"])

    export = GaussianExport(
        "", formats=["splat", "compressed_ply"], videos=["inputs", "freeze_time", "fixed_view"], capture=True,
        viewer_gaussians=50, orbit_rounds=1,
    )  # fmt: skip
    for name in ("frame_0009.ply", "frame_0009.splat", "frame_0009.compressed.ply"):
        (tmp_path / "a" / "frames").mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / "frames" / name).write_text("of an earlier run")
    trainer(tmp_path, export).predict(Fake(predict), batches(1))
    found = {path.name for path in (tmp_path / "a" / "frames").iterdir()}
    assert found == {f"frame_{k:04d}{end}" for k in range(1, T + 1) for end in (".splat", ".compressed.ply")}
    assert (tmp_path / "a" / "frames" / "frame_0001.splat").stat().st_size == 32 * 200
    counts = {name: len(read_video(tmp_path / "a" / f"{name}.mp4")[0]) for name in export.videos}
    assert (
        counts == {"inputs": T, "freeze_time": 48, "fixed_view": T}
        and not (tmp_path / "a" / "orbit.mp4").exists()
    )
    assert len(list((tmp_path / "a" / "capture").rglob("view_*.png"))) == V * T
    page = (tmp_path / "a" / "viewer.html").read_text()
    assert '"counts": [50, 50, 50, 50], "totals": [200, 200, 200, 200]' in page
    with pytest.raises(ValueError, match="formats must be some of ply, compressed_ply, splat, got 'spz'"):
        GaussianExport("", formats=["spz"])
    with pytest.raises(ValueError, match="videos must be some of orbit, .*, got 'spiral'"):
        GaussianExport("", videos=["spiral"])


def test_gaussians_that_are_all_too_faint_are_one_line_and_nothing_is_written(tmp_path):
    scene = reconstruction(scene_batch())
    scene.gaussians.opacities = torch.full_like(scene.gaussians.opacities, 0.01)
    with pytest.raises(ValueError, match=r"opacity_threshold 0.02 \(the most opaque has 0.01\)") as caught:
        trainer(tmp_path, GaussianExport("out")).predict(Fake(lambda b: scene), batches(1))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("chosen", "expected"), [(None, (0.2, 0.4, 0.6)), ((0.0, 0.0, 0.0), (0, 0, 0))])
def test_scenes_are_drawn_on_their_own_background(tmp_path, chosen, expected):
    def predict(batch: SceneBatch) -> Reconstruction:
        cameras, scene = (x.apply(lambda y: y[None]) for x in (ring_cameras(), ball(T)))
        return Reconstruction(cameras, scene, torch.tensor([[0.2, 0.4, 0.6]]), keys=["a"])

    export = GaussianExport(str(tmp_path), orbit_rounds=1, background=chosen)
    trainer(tmp_path, export).predict(Fake(predict), batches(1))
    corner = read_video(tmp_path / "a" / "orbit.mp4")[0][0, 0, 0]
    assert np.abs(corner / 255 - np.array(expected)).max() < 0.03
    page = (tmp_path / "a" / "viewer.html").read_text()
    shown = json.loads(page.split('"background":')[1].split("]")[0] + "]")
    assert shown == pytest.approx(expected)


def test_orbit_shows_the_scene_in_every_picture():
    video = path_video("orbit", [ball(1)[0]] * T, ring_cameras(), (SIZE, SIZE), rounds=3).astype(int)
    assert video.shape == (3 * T, SIZE, SIZE, 3)
    centre = video[:, SIZE // 2, SIZE // 2]
    assert (centre[:, 0] > 200).all() and (centre[:, 1] < 100).all() and (video[:, 0, 0] > 250).all()
    assert np.abs(np.diff(video, axis=0)).mean((1, 2, 3)).min() > 0  # the camera moves


def test_parallel_cameras_look_at_the_gaussians():
    cameras = Cameras(torch.eye(4).expand(V, 4, 4), ring_cameras().intrinsics)
    scene = ball(1)[0]
    scene.means = scene.means + torch.tensor([0.0, 0.0, 4.0])
    assert look_target([scene], cameras)[2] == pytest.approx(4, abs=0.1)
    assert path_video("orbit", [scene], cameras, (SIZE, SIZE)).shape[0] == 48


def reconstruction(batch: SceneBatch) -> Reconstruction:
    pair = lambda x: torch.stack([x, x])  # noqa: E731
    cameras, scene = ring_cameras().apply(pair), ball(1).apply(pair)
    return Reconstruction(cameras, scene, torch.ones(2, 3), keys=batch.keys)


@pytest.mark.parametrize("export", [GridExport, GaussianExport])
def test_scenes_with_the_same_key_get_folders_of_their_own_and_a_rerun_the_same(tmp_path, export):
    predict = (lambda b: b) if export is GridExport else reconstruction
    scenes = [replace(scene_batch(k), keys=["scene", "Scene"]) for k in range(2)]
    for _ in range(2):
        run = trainer(tmp_path, export("out"))
        run.predict(Fake(predict), DataLoader(scenes, batch_size=None))
    folders = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert folders == ["Scene_2", "Scene_4", "scene", "scene_3"]
    assert all(any((tmp_path / "out" / folder).iterdir()) for folder in folders)


@pytest.mark.parametrize("key", ["../../../x", "/tmp/scene4d-escaped", "a\0b", "", "x" * 4000, "..", "CON"])
@pytest.mark.parametrize("export", [GridExport, GaussianExport])
def test_keys_from_files_never_leave_the_output_folder(tmp_path, export, key):
    predict = (lambda b: b) if export is GridExport else reconstruction
    root = tmp_path / "a" / "b" / "c"
    scene = replace(scene_batch(), keys=[key, "plain"])
    trainer(root, export("out")).predict(Fake(predict), DataLoader([scene], batch_size=None))
    assert len(list((root / "out").iterdir())) == 2
    written = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert written and all(p.is_relative_to(root / "out") for p in written)
    assert not Path("/tmp/scene4d-escaped").exists()


def test_nan_cameras_and_gaussians_are_one_line_and_nothing_is_written(tmp_path):
    for spoil in ("cameras", "gaussians"):
        scene = reconstruction(scene_batch())
        (scene.cameras.c2w if spoil == "cameras" else scene.gaussians.means)[:] = torch.nan
        with pytest.raises(ValueError, match="scene_0.*NaN") as caught:
            trainer(tmp_path, GaussianExport("out")).predict(Fake(lambda b, s=scene: s), batches(1))
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_json_of_cameras_is_json_whatever_the_times(tmp_path):
    scene = reconstruction(scene_batch())
    scene.frame_times = torch.tensor([[torch.nan], [torch.inf]])
    trainer(tmp_path, GaussianExport("out")).predict(Fake(lambda b: scene), batches(1))
    refuse = lambda name: pytest.fail(f"{name} is no JSON")  # noqa: E731
    text = (tmp_path / "out" / "scene_0" / "cameras.json").read_text()
    assert json.loads(text, parse_constant=refuse)["frame_times"] == [None]


@pytest.mark.filterwarnings("ignore")
def test_two_ranks_never_write_into_the_same_folder(tmp_path):
    strategy = DDPStrategy(process_group_backend="gloo", start_method="spawn")
    scenes = [replace(scene_batch(k).sample(0), keys=["scene"]) for k in range(5)]
    run = trainer(tmp_path, GridExport("out"), devices=2, strategy=strategy)
    run.predict(Fake(echo), DataLoader(scenes, batch_size=None), return_predictions=False)
    folders = ["scene", *(f"scene_{k}" for k in range(2, 6))]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == folders
    found = torch.cat([read_grid(tmp_path / "out" / name / "grid.safetensors").images for name in folders])
    expected = torch.cat([scene.images for scene in scenes])
    distances = (found[:, None] - expected).abs().flatten(2).amax(2)
    assert (distances < 0.01).any(0).all()  # every scene is there


def echo(batch: SceneBatch) -> SceneBatch:
    return batch


def test_names_from_data_make_safe_tags_and_pictures(tmp_path):
    logger = L.pytorch.loggers.TensorBoardLogger(tmp_path, name=None, version="run")
    module = Fake()
    module.validation_pictures = {
        "objects/../../../x": torch.rand(3, 4, 4),
        "objects/" + "k" * 3000: torch.rand(3, 4, 4),
    }
    scene = replace(scene_batch(), source=["../../up", "a\0\udcff"])
    fit = trainer(tmp_path, GridLogging(), logger=logger, num_sanity_val_steps=0)
    fit.fit(module, DataLoader([scene], batch_size=None), batches(1))
    pictures = sorted(p.name for p in (tmp_path / "run" / "pictures").rglob("*.png"))
    assert len(pictures) == 4 and all(len(name) < 200 and ".." not in name[:2] for name in pictures)
    assert len(list(tmp_path.rglob("*.png"))) == 4
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert len(events.Tags()["images"]) == 4


def test_metrics_are_written_and_printed_after_validation_only(tmp_path, caplog):
    caplog.set_level("INFO", "callbacks")
    path = tmp_path / "new" / "metrics.json"
    trainer(tmp_path, MetricsExport(str(path)), limit_val_batches=1).fit(Fake(), batches(1), batches(1))
    ours = lambda: [r.getMessage() for r in caplog.records if r.name == "callbacks.metrics_export"]  # noqa: E731
    assert not path.exists() and not ours()
    trainer(tmp_path, MetricsExport(str(path))).validate(Fake(), batches(1), verbose=False)
    row = {"source": "objects", "method": "sample", "score": "lpips_vgg", "value": 0.5, "count": 2}
    expected = {"diffusion": [row]}
    assert json.loads(path.read_text()) == expected
    (printed,) = ours()  # once, however many loaders there were
    assert "LPIPS (VGG)" in printed and "0.500" in printed and f"scores -> {path}" in printed
    path.unlink()
    during = MetricsExport(str(path), during_fit=True)
    trainer(tmp_path, during, limit_val_batches=1).fit(Fake(), batches(1), batches(1))
    assert json.loads(path.read_text()) == expected and len(ours()) == 1


def test_pictures_reach_tensorboard_and_files(tmp_path):
    logger = L.pytorch.loggers.TensorBoardLogger(tmp_path, name=None, version="run")
    fit = trainer(tmp_path, GridLogging(frames=2, enlarge=2), logger=logger, num_sanity_val_steps=1)
    fit.fit(Fake(), batches(2), batches(1))
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert set(events.Tags()["images"]) == {"train/objects", "train/static", "val/grid_objects"}
    folder = tmp_path / "run" / "pictures"
    assert sorted(p.name for p in (folder / "step_00000000").iterdir()) == [
        "train_objects.png",
        "train_static.png",
    ]
    sheet = np.asarray(Image.open(folder / "step_00000000" / "train_objects.png"))
    assert sheet.shape == (2 * (V * SIZE + V - 1), 2 * (2 * SIZE + 1), 3)
    assert Image.open(folder / "step_00000002" / "val_grid_objects.png").size == (20, 12)


def rates(folder, every, steps, **options):
    """What a fit logs of its throughput, by step."""
    logged, logger = {}, L.pytorch.loggers.CSVLogger(folder)
    logger.log_metrics = lambda metrics, step=None: logged.update(
        {step: metrics} if "second" in str(metrics) else {}
    )
    run = trainer(folder, Throughput(every), logger=logger, log_every_n_steps=100, **options)
    run.fit(Fake(), batches(steps), batches(1))
    return logged


def test_throughput_is_logged_sparsely(tmp_path):
    logged = rates(tmp_path, 6, 14, limit_val_batches=0)
    assert list(logged) == [7, 13]  # the first batch does not count, and 1 batch at the end is too few
    for found in logged.values():
        assert found["train/frames_per_second"] == pytest.approx(V * T * found["train/samples_per_second"])
    with pytest.raises(ValueError, match="got 0"):
        Throughput(0)


@pytest.mark.parametrize("steps, expected", [(30, [15, 30]), (7, [7]), (5, [])])
def test_short_runs_have_a_throughput_at_validations_and_at_the_end(tmp_path, steps, expected):
    every = min(steps, 15)
    logged = rates(tmp_path, 100, steps, val_check_interval=every)
    assert list(logged) == expected


def test_every_fit_shows_its_sources_once_also_one_that_goes_on_in_the_middle(monkeypatch):
    shown = []
    monkeypatch.setattr(GridLogging, "show", lambda self, trainer, name, picture: shown.append(name))
    callback, rank_zero = GridLogging(training_batches=2), SimpleNamespace(is_global_zero=True)
    batch = next(iter(batches(1)))
    for _ in range(2):
        callback.on_fit_start(rank_zero, None)
        for index in (5000, 5001):
            callback.on_train_batch_start(rank_zero, None, batch, index)
    assert sorted(shown) == sorted([f"train/{source}" for source in set(batch.source)] * 2)


def test_grid_logging_needs_no_pictures(tmp_path):
    GridLogging().on_validation_end(
        SimpleNamespace(sanity_checking=False, is_global_zero=True), SimpleNamespace()
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"enlarge": 0}, {"orbit_rounds": 0}, {"viewer_gaussians": 0}, {"opacity_threshold": 2.0},
        {"opacity_threshold": float("nan")}, {"background": (3.0, 0.0, -1.0)},
    ],
)  # fmt: skip
def test_numbers_of_an_export_are_checked_before_anything_is_written(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must "):
        GaussianExport("out", **wrong)


@pytest.mark.parametrize("wrong", [{"enlarge": 0}, {"frames": 0}, {"training_batches": -1}])
def test_numbers_of_pictures_are_checked(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must be at least"):
        GridLogging(**wrong)


def test_a_timestep_without_visible_gaussians_is_written_like_the_others(tmp_path):
    frames = ball(3)
    frames.blurred = True
    frames.opacities[0] = 0
    export = GaussianExport(
        "out",
        opacity_threshold=0.0,
        formats=["ply", "splat", "compressed_ply"],
        videos=["orbit"],
        capture=True,
    )
    export.write(
        tmp_path, frames, ring_cameras(), [0.0, 0.1, 0.2], (16, 16), images=torch.rand(4, 3, 3, 16, 16)
    )
    counts = [len(read_ply(path).means) for path in sorted(tmp_path.glob("frames/frame_????.ply"))]
    assert counts == [0, 200, 200] and (tmp_path / "viewer.html").exists()

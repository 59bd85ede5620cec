"""The file of the null condition: what comes back, and what is refused in one line."""

import pytest
import torch
from safetensors.torch import save_file

from scene4d.networks.null_text import read_null_text, write_null_text


def test_it_comes_back_with_its_encoder(tmp_path):
    text = torch.randn(2, 6)
    write_null_text(tmp_path / "new" / "null_text.safetensors", text, "0123456789abcdef")
    found, encoder = read_null_text(tmp_path / "new" / "null_text.safetensors")
    assert torch.equal(found, text) and encoder == "0123456789abcdef"


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"text": torch.ones(1, 4)}, None, "does not say which text encoder made it"),
        ({"text": torch.ones(1, 4)}, {"other": "x"}, "does not say which text encoder made it"),
        ({"null": torch.ones(1, 4)}, {"encoder": "x"}, "holds no tensor 'text'"),
        ({"text": torch.ones(4)}, {"encoder": "x"}, r"holds a 'text' \(4,\), expected finite numbers l d"),
        ({"text": torch.ones(0, 4)}, {"encoder": "x"}, r"holds a 'text' \(0, 4\)"),
        (
            {"text": torch.full((1, 4), torch.nan)},
            {"encoder": "x"},
            r"holds a 'text' \(1, 4\), expected finite",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, tensors, metadata, message):
    save_file(tensors, tmp_path / "n.safetensors", metadata)
    with pytest.raises(ValueError, match=rf"^null text '[^\n]*n.safetensors' {message}[^\n]*$"):
        read_null_text(tmp_path / "n.safetensors")


@pytest.mark.parametrize("size", [0, 4, 30, 90])
def test_damaged_files_are_refused(tmp_path, size):
    write_null_text(tmp_path / "n.safetensors", torch.ones(1, 64), "x")
    data = (tmp_path / "n.safetensors").read_bytes()
    (tmp_path / "n.safetensors").write_bytes(data[:size])
    with pytest.raises(ValueError, match=r"^null text '[^\n]*n.safetensors' cannot be read: [^\n]+$"):
        read_null_text(tmp_path / "n.safetensors")


def test_a_missing_file_says_what_writes_it(tmp_path):
    with pytest.raises(ValueError, match=r"does not exist; python -m preparation.captions writes null_text"):
        read_null_text(tmp_path / "n.safetensors")

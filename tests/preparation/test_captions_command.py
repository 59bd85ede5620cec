"""The command that embeds captions anew: bytes that stay, restarts, refusals, the null condition."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from datamodules.shards import read_shard
from preparation.captions import main
from preparation.latents import main as add_latents
from preparation.writing.manifest import recorded
from preparation.writing.shards import write_shard
from scene4d.networks.autoencoder import PatchAutoencoder
from scene4d.networks.null_text import read_null_text
from scene4d.networks.text import Umt5Encoder
from scene4d.sample_format import SceneSample, decode_sample

CAPTIONS = ["a golem walks over white ground", "a cow", ""]


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    """Folders of small UMT5 encoders of several widths in the layout of a Wan checkpoint."""
    folder = tmp_path_factory.mktemp("wan")
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        CAPTIONS, trainers.UnigramTrainer(vocab_size=40, special_tokens=special, unk_token="<unk>")
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    for width in (16, 24):
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        )
        fast.save_pretrained(folder / str(width) / "tokenizer")
        torch.manual_seed(width)
        config = UMT5Config(vocab_size=64, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        UMT5EncoderModel(config).save_pretrained(folder / str(width) / "text_encoder")
    return folder


def scene(key: str, caption: str) -> SceneSample:
    images = np.random.default_rng(ord(key)).integers(0, 256, (2, 5, 16, 16, 3), dtype=np.uint8)
    return SceneSample(key, "objects", images, 12.0, caption=caption)


@pytest.fixture
def raw(tmp_path):
    old = replace(scene("c", CAPTIONS[2]), text=np.ones((1, 384), np.float32), text_encoder="minilm")
    named = [
        scene("a", CAPTIONS[0]),
        replace(scene("b", CAPTIONS[1]), text=np.ones((1, 384), np.float32)),
        old,
    ]
    write_shard(tmp_path / "raw" / "objects-train-000000.tar", named)
    write_shard(tmp_path / "raw" / "objects-train-000001.tar", [scene("d", CAPTIONS[0])])
    return tmp_path / "raw"


def embed(raw, output, wan, *more, width=16):
    main([
        f"{raw}/objects-train-*.tar", "--output", str(output), "--encoder", "scene4d.networks.text.Umt5Encoder",
        "--encoder.pretrained", str(wan / str(width)), *more,
    ])  # fmt: skip


def samples(folder):
    return {m["__key__"]: m for path in sorted(folder.glob("*.tar")) for m in read_shard(str(path))}


def test_captions_are_embedded_without_padding_and_all_else_stays(raw, tmp_path, wan):
    embed(raw, tmp_path / "out", wan)
    encoder = Umt5Encoder(str(wan / "16"))
    before, after = samples(raw), samples(tmp_path / "out")
    assert list(after) == ["a", "b", "c", "d"]
    for key, caption in zip("abd", [*CAPTIONS[:2], CAPTIONS[0]]):
        sample, (wanted,) = decode_sample(after[key]), encoder.encode([caption])
        assert np.array_equal(sample.text, wanted.half().float().numpy()) and sample.text.shape[1] == 16
        assert sample.text_encoder == encoder.fingerprint and sample.caption == caption
        entry = json.loads(after[key]["meta.json"])["text"]
        assert entry == {"encoder": encoder.fingerprint, "shape": list(wanted.shape)}
    for key, members in after.items():
        changed = {"meta.json", "text.npy", "__url__", "__local_path__"}
        assert {k: v for k, v in members.items() if k not in changed} == {
            k: v for k, v in before[key].items() if k not in changed
        }
    assert recorded(str(tmp_path / "out/objects-train-000000.tar")).samples == 3


def test_a_sample_without_a_caption_has_no_embedding(raw, tmp_path, wan):
    embed(raw, tmp_path / "out", wan)
    members = samples(tmp_path / "out")["c"]
    assert "text.npy" not in members and decode_sample(members).text is None
    meta = json.loads(members["meta.json"])
    assert "text" not in meta and "text.npy" not in meta["crc32"]


def test_the_null_condition_lies_beside_the_shards(raw, tmp_path, wan):
    embed(raw, tmp_path / "out", wan)
    text, fingerprint = read_null_text(tmp_path / "out" / "null_text.safetensors")
    encoder = Umt5Encoder(str(wan / "16"))
    assert torch.equal(text, encoder.encode([""])[0]) and fingerprint == encoder.fingerprint
    assert text.dtype == torch.float32 and text.shape == (1, 16)


def test_restarts_and_parts_give_the_same_files(raw, tmp_path, wan, caplog):
    content = lambda folder: {path.name: path.read_bytes() for path in folder.glob("*.*") if path.is_file()}  # noqa: E731
    embed(raw, tmp_path / "whole", wan)
    expected = content(tmp_path / "whole")
    (tmp_path / "whole/reports/objects-train-000000.json").unlink()
    (tmp_path / "whole/null_text.safetensors").unlink()
    with caplog.at_level(logging.INFO):
        embed(raw, tmp_path / "whole", wan)
    assert "2 shards, 1 exist already" in caplog.text and content(tmp_path / "whole") == expected
    embed(raw, tmp_path / "parts", wan, "--part", "0/2")
    assert (tmp_path / "parts/reports/captions-part-0-of-2.json").exists()
    embed(raw, tmp_path / "parts", wan, "--part", "1/2")
    assert {k: v for k, v in content(tmp_path / "parts").items() if k != "manifest.json"} == {
        k: v for k, v in expected.items() if k != "manifest.json"
    }


def test_latents_and_captions_are_added_in_any_order(raw, tmp_path, wan):
    def latents(source, output):
        (tmp_path / "c.yaml").write_text(
            "autoencoder: {class_path: scene4d.networks.PatchAutoencoder, init_args: {channels: 4, width: 64, "
            f"depth: 1, weights: {tmp_path}/codec.safetensors}}}}"
        )
        add_latents([f"{source}/*.tar", "--output", str(output), "--config", str(tmp_path / "c.yaml")])

    save_file(PatchAutoencoder(channels=4, width=64, depth=1).state_dict(), tmp_path / "codec.safetensors")
    latents(raw, tmp_path / "l")
    embed(tmp_path / "l", tmp_path / "lt", wan)
    embed(raw, tmp_path / "t", wan)
    latents(tmp_path / "t", tmp_path / "tl")
    for folder in ("lt", "tl"):
        sample = decode_sample(samples(tmp_path / folder)["a"], latents=True)
        assert sample.latents.shape[0] == 2 and sample.text.shape[1] == 16
        assert (
            sample.text_encoder == Umt5Encoder(str(wan / "16")).fingerprint and len(sample.autoencoder) == 16
        )


def test_what_does_not_fit_together_is_refused_in_one_line(raw, tmp_path, wan):
    def refused(message, call, *args, **options):
        with pytest.raises(SystemExit, match=f"^captions: [^\n]*{message}[^\n]*$"):
            call(*args, **options)

    refused("would replace the shard that is read", embed, raw, raw, wan)
    refused("part must be i/n", embed, raw, tmp_path / "out", wan, "--part", "2/2")
    assert not (tmp_path / "out").exists() and not (raw / "null_text.safetensors").exists()
    refused("PatchAutoencoder lacks members of scene4d.networks.text.TextEncoder", main, [
        f"{raw}/*.tar", "--output", f"{tmp_path}/out", "--encoder", "scene4d.networks.PatchAutoencoder"])  # fmt: skip
    refused("cannot load UMT5EncoderModel", embed, raw, tmp_path / "out", wan, width=99)
    assert not (tmp_path / "out").exists()
    embed(raw, tmp_path / "out", wan)
    refused("was made by text encoder", embed, raw, tmp_path / "out", wan, width=24)
    (tmp_path / "out/null_text.safetensors").unlink()
    refused("was made from other scenes or options", embed, raw, tmp_path / "out", wan, width=24)
    assert not (tmp_path / "out/null_text.safetensors").exists()


def test_shards_without_any_caption_are_refused_and_nothing_is_written(tmp_path, wan):
    write_shard(tmp_path / "raw/objects-train-000000.tar", [scene("a", ""), scene("b", "")])
    with pytest.raises(
        SystemExit, match=r"^captions: [^\n]*000000.tar: none of its 2 samples has a caption[^\n]*$"
    ):
        embed(tmp_path / "raw", tmp_path / "out", wan)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_damage_is_left_out_and_reported(raw, tmp_path, wan):
    path = raw / "objects-train-000000.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    embed(raw, tmp_path / "out", wan)
    report = json.loads((tmp_path / "out/reports/captions-part-0-of-1.json").read_text())
    assert "cannot be read" in report["skipped"]["objects-train-000000.tar"]
    assert "d" in samples(tmp_path / "out")

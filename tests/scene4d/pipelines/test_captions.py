"""What the network is told: embedded captions, the null condition where there is none, and guidance by them."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from datamodules.shards import read_shard
from lightning_modules import from_config
from scene4d.diffusion.rectified_flow import RectifiedFlow
from scene4d.latent_grid import latent_frames
from scene4d.pipelines import Captions, GridGenerator, Sampling
from scene4d.references import reference_mask
from scene4d.sample_format import decode_sample
from scene4d.types import SceneBatch


class Letters(nn.Module):
    """One token of two channels per letter and one at the end, as UMT5 has it."""

    fingerprint = "letters"

    def encode(self, prompts):
        return [torch.tensor([[ord(c) / 100, 1.0] for c in prompt] + [[0.5, 2.0]]) for prompt in prompts]


def batch(text=None, prompts=(), encoder=None, references="both", count=2):
    mask = reference_mask(references, 2, 5).expand(count, -1, -1)
    return SceneBatch(
        torch.zeros(count, 2, 5, 3, 8, 8), None, torch.zeros(count, 5), mask, ["objects"] * count,
        [f"scene{k}" for k in range(count)], text=text, text_encoder=encoder, prompts=list(prompts),
    )  # fmt: skip


EMPTY = torch.tensor([[0.5, 2.0]])


def test_prompts_are_embedded_and_an_absent_one_is_the_null_condition():
    for null, expected in (("zeros", torch.zeros(1, 2)), ("encode", EMPTY)):
        text = Captions(Letters, null).embed(batch(prompts=["ab", ""]))
        torch.testing.assert_close(text[0], Letters().encode(["ab"])[0])
        torch.testing.assert_close(text[1, :1], expected)
        assert text.shape == (2, 3, 2) and text[1, 1:].abs().max() == 0


def test_the_null_condition_may_come_from_a_file(tmp_path):
    file = str(tmp_path / "null.safetensors")
    save_file({"text": EMPTY}, file, metadata={"encoder": "letters"})
    stored = torch.stack([torch.ones(4, 2), torch.zeros(4, 2)])  # collation leaves zeros
    text = Captions(None, file).embed(batch(stored, encoder="letters"))
    torch.testing.assert_close(text[0], stored[0])
    torch.testing.assert_close(text[1], torch.cat([EMPTY, torch.zeros(3, 2)]))
    with pytest.raises(
        ValueError, match="'objects' were embedded by text encoder other, the model's is letters"
    ):
        Captions(None, file).embed(batch(stored, encoder="other"))
    assert Captions(None, file).embed(batch(stored)) is not None  # shards of before have no fingerprint


def test_a_null_condition_of_another_encoder_is_one_line(tmp_path):
    other, wide = str(tmp_path / "other.safetensors"), str(tmp_path / "wide.safetensors")
    save_file({"text": EMPTY}, other, metadata={"encoder": "other"})
    save_file({"text": torch.ones(1, 3)}, wide, metadata={"encoder": "letters"})
    with pytest.raises(
        ValueError, match=r"encoder is text encoder letters, .*other.safetensors' was embedded by other"
    ):
        Captions(Letters, other).embed(batch(prompts=["ab", ""]))
    with pytest.raises(ValueError, match=r"captions have 2 channels, .*wide.safetensors' has 3"):
        Captions(None, wide).embed(batch(torch.ones(2, 4, 2)))  # shards of before name no encoder


def test_without_any_caption_the_network_gets_the_null_condition():
    generator = torch.Generator().manual_seed(0)
    assert Captions().embed_or_nothing(batch()) is None
    assert Captions(Letters).embed_or_nothing(batch(prompts=["", " "])) is None
    for text in (
        Captions(Letters, "encode").embed_or_nothing(batch()),
        Captions(Letters, "encode").embed_for_training(batch(), generator),
    ):
        assert torch.equal(text, EMPTY.expand(2, 1, 2))


def test_training_leaves_captions_out_at_random():
    stored, generator = torch.ones(2000, 1, 2), torch.Generator().manual_seed(0)
    many = batch(stored, count=2000)
    for null, expected in (("zeros", torch.zeros(1, 2)), ("encode", EMPTY)):
        text = Captions(Letters, null, dropout=0.2).embed_for_training(many, generator)
        left_out = (text == expected).flatten(1).all(1)
        assert abs(left_out.float().mean() - 0.2) < 0.03 and torch.equal(text[~left_out], stored[~left_out])


def test_wrong_options_are_one_line():
    with pytest.raises(ValueError, match="captions.null_text is 'encode', which needs captions.encoder"):
        Captions(null_text="encode")
    with pytest.raises(ValueError, match=r"captions.dropout must be in \[0, 1\], got 1.5"):
        Captions(dropout=1.5)
    for options in ({"guidance": float("nan")}, {"guidance_alone": float("inf")}):
        with pytest.raises(
            ValueError, match=rf"sampling.{next(iter(options))} must be finite, got (nan|inf)"
        ):
            Sampling(**options)
    with pytest.raises(ValueError, match="no text encoder: set model.init_args.captions.encoder"):
        Captions().embed(batch(prompts=["a"] * 2))
    with pytest.raises(ValueError, match="Identity lacks members of scene4d.networks.text.TextEncoder"):
        Captions(nn.Identity).embed(batch(prompts=["a"] * 2))


def generator(sampling=None, captions=None):
    return GridGenerator(
        lambda x, *_: x, nn.Identity(), RectifiedFlow(), sampling, captions or Captions(Letters)
    )


def test_guidance_has_a_weight_of_its_own_where_a_video_is_missing():
    told = batch(prompts=["ab", "c"])
    mixed = replace(
        told, reference=torch.stack([reference_mask("both", 2, 5), reference_mask("fixed_view", 2, 5)])
    )
    text, guidance = generator(Sampling(guidance_alone=5.0)).conditions(mixed)
    assert guidance.weights.tolist() == [1.0, 5.0] and guidance.text.abs().max() == 0
    assert guidance.text.shape == text.shape
    assert generator(Sampling(guidance_alone=5.0)).conditions(told)[1] is None
    assert generator(Sampling(guidance=3.0)).conditions(mixed)[1].weights.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("prompts", [(), ("ab", " ")])
def test_guidance_without_a_prompt_names_the_scene(prompts):
    with pytest.raises(
        ValueError, match=r"guidance is 3 for scene 'scene\d', which has no prompt to guide by"
    ):
        generator(Sampling(guidance=3.0)).conditions(batch(prompts=prompts))


def test_the_iterator_over_a_sample_can_be_watched():
    model, seen = generator(Sampling(3)), []

    def watch(path, count):
        for number, latents in enumerate(path):
            seen.append((number, count))
            yield latents

    model.watch, model.encode = (
        watch,
        lambda images: torch.zeros(2, 1, latent_frames(images.shape[2]), 4, 1, 1),
    )
    list(model.predictions(batch()))
    assert seen == [(0, 3), (1, 3), (2, 3)]


def test_the_small_preset_embeds_prompts_as_its_shards_did():
    captions = from_config("configs/small/shipped_diffusion.yaml").captions
    (members, *_) = read_shard("assets/small/shards/objects-val-000000.tar")
    stored = decode_sample(members)
    (text,) = captions.embed(batch(prompts=[stored.caption], count=1))
    torch.testing.assert_close(text, torch.from_numpy(stored.text), rtol=0, atol=1e-3)

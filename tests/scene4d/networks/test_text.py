"""Embeddings of prompts, against what diffusers' own Wan pipeline computes from the same files."""

import logging

import pytest
import torch
from diffusers import WanPipeline
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from scene4d.networks.text import TextEncoder, Umt5Encoder, clean_prompt

WORDS = ["a golem walks over the white ground", "an old horse stands", "fire &amp; smoke"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small UMT5 with a tokenizer of its own, in the layout of a Wan checkpoint."""
    folder = tmp_path_factory.mktemp("wan")
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    return folder


def test_embeddings_are_those_of_the_wan_pipeline(checkpoint):
    encoder = Umt5Encoder(str(checkpoint), dtype="float32")
    assert isinstance(encoder, TextEncoder)
    pipeline = WanPipeline(encoder.tokenizer, encoder.model, None, None)
    prompts = [WORDS[0], "  an old   horse ", ""]
    expected = pipeline._get_t5_prompt_embeds(prompts, max_sequence_length=32, device=torch.device("cpu"))
    for ours, theirs in zip(encoder.encode(prompts), expected):
        torch.testing.assert_close(ours, theirs[: len(ours)], rtol=1e-4, atol=1e-5)
        assert not theirs[len(ours) :].any()


def test_the_empty_prompt_is_one_token_and_not_zero(checkpoint):
    (null,) = Umt5Encoder(str(checkpoint)).encode([""])
    assert null.shape == (1, 16) and null.dtype == torch.float32 and bool(null.abs().sum() > 0)


def test_long_prompts_are_cut_with_a_warning(checkpoint, caplog):
    encoder = Umt5Encoder(str(checkpoint), most_tokens=4)
    with caplog.at_level(logging.WARNING):
        (cut,) = encoder.encode([WORDS[0] * 3])
    assert len(cut) == 4 and "tokens is cut to 4" in caplog.text


def test_fingerprint_tells_weights_apart_and_not_their_type(checkpoint):
    full, half = (Umt5Encoder(str(checkpoint), dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert full.fingerprint == half.fingerprint and len(full.fingerprint) == 16
    other = Umt5Encoder(str(checkpoint), dtype="float32")
    next(other.model.encoder.block.parameters()).data.flatten()[3] += 1
    assert other.fingerprint != full.fingerprint


def test_a_missing_checkpoint_says_what_to_put_where(tmp_path):
    with pytest.raises(ValueError, match="cannot load UMT5EncoderModel from.*'text_encoder'"):
        Umt5Encoder(str(tmp_path / "absent"))


def test_prompts_are_cleaned_as_the_pipeline_cleans_them():
    assert clean_prompt(" fire &amp;amp; smoke\n\tand  rain ") == "fire & smoke and rain"

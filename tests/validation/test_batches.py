"""Latents get the conditioning that the pipeline itself gives them."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_sd, tiny_sdxl

from linzoo.validation.batches import make_batches


def test_every_caption_lies_beside_its_latents_in_batches_as_asked() -> None:
    pipe = tiny_sd()
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    captions = [f"picture {index}" for index in range(5)]
    batches = make_batches(pipe, latents, captions, 2, "cpu")
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat([batch.latents for batch in batches]), latents)
    wanted, empty = pipe.encode_prompt(captions, "cpu", 1, True, [""] * 5)
    assert torch.allclose(torch.cat([batch.conditioning.text for batch in batches]), wanted, atol=1e-6)
    assert torch.allclose(torch.cat([batch.unconditional.text for batch in batches]), empty, atol=1e-6)
    assert batches[0].conditioning.pooled is None


def test_sdxl_gets_pooled_texts_and_the_time_ids_of_its_pipeline() -> None:
    pipe = tiny_sdxl()
    latents = torch.randn(3, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    batches = make_batches(pipe, latents, ["a", "b", "c"], 2, "cpu")
    height, width = 8 * pipe.vae_scale_factor, 12 * pipe.vae_scale_factor
    wanted = pipe._get_add_time_ids(
        (height, width), (0, 0), (height, width), torch.float32, pipe.text_encoder_2.config.projection_dim
    )
    for batch in batches:
        for conditioning in (batch.conditioning, batch.unconditional):
            assert torch.equal(conditioning.time_ids, wanted.expand(len(batch), -1))
            assert conditioning.pooled.shape == (len(batch), 32)
        half = batch.conditioning.to(torch.float64)
        assert (half.text.dtype, half.pooled.dtype, half.time_ids.dtype) == (
            torch.float64,
            torch.float64,
            torch.float32,
        )
        output = pipe.unet(batch.latents, 500, **batch.conditioning.kwargs()).sample
        assert output.shape == batch.latents.shape
    text, _, pooled, _ = pipe.encode_prompt("b", device="cpu", num_images_per_prompt=1)
    assert torch.allclose(batches[0].conditioning.text[1:], text, atol=1e-6)
    assert torch.allclose(batches[0].conditioning.pooled[1:], pooled, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 16])
def test_the_batch_changes_nothing(at_once: int) -> None:
    pipe = tiny_sd()
    latents = torch.zeros(3, 4, 8, 8)
    ones = make_batches(pipe, latents, ["a", "b", "c"], at_once, "cpu")
    others = make_batches(pipe, latents, ["a", "b", "c"], 2, "cpu")
    texts = [torch.cat([batch.conditioning.text for batch in each]) for each in (ones, others)]
    assert torch.allclose(*texts, atol=1e-6)

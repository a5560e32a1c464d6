"""The three networks of mini, untrained: Stable Diffusion v1's structure at a two-hundredth of its size."""

from __future__ import annotations

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from .vae_init import start_as_patch_colours

TEXT_WIDTH = 128
TEXT_TOKENS = 32


def vae() -> AutoencoderKL:
    """Return the autoencoder: 3x128x128 pixels in [-1, 1] <-> 4x16x16 latents (f = 8), 1.2 M parameters.

    It starts as what a linear f = 8 code would be (`start_as_patch_colours`), which spares most of the training.
    """
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 48, 80),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=128,
    )
    start_as_patch_colours(model)
    return model


def unet() -> UNet2DConditionModel:
    """Return the noise predictor: v1.5's wiring with three levels, attention in each, 2.6 M parameters.

    `attention_head_dim` is the number of heads in diffusers' v1 configs. Two, because attention over heads of eight
    channels takes three times as long as over sixteen.
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(32, 64, 88),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
    )


def text_encoder(tokens: int, start: int, end: int) -> CLIPTextModel:
    """Return the text encoder for a vocabulary of `tokens` with the given special ids, 0.7 M parameters."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=tokens,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=start,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def scheduler() -> DDIMScheduler:
    """Return Stable Diffusion v1's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )

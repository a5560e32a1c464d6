"""Tiny Stable Diffusion models with random weights, built in memory: a pipeline in a fraction of a second."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

SD_SITES = 4
SDXL_SITES = 8
CONTEXT = 32


def tiny_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer that spells every word out."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def tiny_unet(seed: int = 0, **changes: object) -> UNet2DConditionModel:
    """A UNet of SD 1.x structure with self-attention over 64, 16 and 64 tokens for 8 x 8 latents."""
    torch.manual_seed(seed)
    config: dict[str, object] = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": CONTEXT,
        "attention_head_dim": 4,
    }
    return UNet2DConditionModel(**(config | changes)).eval()


def tiny_sdxl_unet(seed: int = 0) -> UNet2DConditionModel:
    """A UNet of SDXL structure: several transformer blocks, head counts by level, added text and time ids."""
    return tiny_unet(
        seed,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * CONTEXT,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80,
    )


def tiny_vae(seed: int = 0) -> AutoencoderKL:
    """An autoencoder that halves the size once."""
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=32,
    ).eval()


def tiny_text_encoder(tokenizer: CLIPTokenizer, seed: int = 0, *, projection: bool = False) -> CLIPTextModel:
    """A CLIP text encoder of width ``CONTEXT``, with SDXL's projection of the pooled output or without."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=CONTEXT,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        projection_dim=CONTEXT,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def tiny_image_encoder() -> dict[str, object]:
    """The two further components that an IP-Adapter needs."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=CONTEXT,
        projection_dim=CONTEXT,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        intermediate_size=37,
        patch_size=4,
    )
    return {
        "image_encoder": CLIPVisionModelWithProjection(config).eval(),
        "feature_extractor": CLIPImageProcessor(size=32, crop_size=32, do_rescale=False),
    }


def tiny_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def tiny_sd(cls: type = StableDiffusionPipeline, **components: object) -> StableDiffusionPipeline:
    """A Stable Diffusion pipeline, or another ``cls`` with its further components."""
    tokenizer = tiny_tokenizer()
    parts: dict[str, object] = {
        "vae": tiny_vae(),
        "text_encoder": tiny_text_encoder(tokenizer),
        "tokenizer": tokenizer,
        "unet": tiny_unet(),
        "scheduler": tiny_scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    pipe = cls(**(parts | components))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_sdxl() -> StableDiffusionXLPipeline:
    """An SDXL pipeline."""
    tokenizer = tiny_tokenizer()
    pipe = StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(tokenizer),
        text_encoder_2=tiny_text_encoder(tokenizer, seed=1, projection=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=tiny_sdxl_unet(),
        scheduler=tiny_scheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: StableDiffusionPipeline, **changes: object) -> torch.Tensor:
    """One seeded picture of 16 x 16 pixels in two steps, as an array in 0 to 1."""
    arguments: dict[str, object] = {
        "prompt": "a cat",
        "num_inference_steps": 2,
        "guidance_scale": 5.0,
        "generator": torch.Generator("cpu").manual_seed(0),
        "output_type": "np",
        "height": 16,
        "width": 16,
    }
    return torch.as_tensor(pipe(**(arguments | changes)).images)


def self_attentions(unet: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The self-attentions of a UNet by name, in the order of a LinFusion checkpoint."""
    return {name: module for name, module in unet.named_modules() if name.endswith("attn1")}


def write_linfusion(
    unet: torch.nn.Module,
    folder: Path,
    *,
    of_teacher: bool = False,
    mid_dim: int | None = None,
    seed: int = 7,
) -> Path:
    """A LinFusion checkpoint with random weights, written as the published code lays it out.

    ``of_teacher``: q, k, v and out are the teacher's and only the branches are random.
    """
    random = torch.Generator().manual_seed(seed)
    tensors, entries = {}, []
    for index, (name, site) in enumerate(self_attentions(unet).items()):
        dim = site.to_q.in_features
        width = {None: dim}.get(mid_dim, mid_dim)
        entry = {"module_name": name, "dim_n": dim, "heads": site.heads, "projection_mid_dim": mid_dim}
        entries.append(entry)
        shapes = {"to_q.weight": (dim, dim), "to_k.weight": (dim, dim), "to_v.weight": (dim, dim)}
        shapes |= {"to_out.0.weight": (dim, dim), "to_out.0.bias": (dim,)}
        for branch in ("to_q_", "to_k_") if mid_dim != -1 else ():
            shapes |= {f"{branch}.0.weight": (width, dim), f"{branch}.0.bias": (width,)}
            shapes |= {f"{branch}.1.weight": (width,), f"{branch}.1.bias": (width,)}
            shapes |= {f"{branch}.3.weight": (dim, width), f"{branch}.3.bias": (dim,)}
        for key, shape in shapes.items():
            fresh = torch.randn(shape, generator=random) * shape[-1] ** -0.5
            copied = of_teacher and not key.startswith(("to_q_", "to_k_"))
            tensors[f"{index}.{key}"] = site.state_dict()[key].clone() if copied else fresh
    folder.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": "LinFusion", "_diffusers_version": "0.31.0", "modules_list": entries}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    return folder

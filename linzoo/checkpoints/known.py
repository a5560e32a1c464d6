"""What a file can be besides a UNet of a registered variant: named for what it is, though not converted."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from linzoo.checkpoints.layout import layout_of
from linzoo.checkpoints.linear_unet import CLASS_NAME
from linzoo.plugin import Fingerprint

Kind = Literal["unet", "linear-unet", "lora", "controlnet", "vae", "text-encoder", "linfusion", "unknown"]

_SD_DEPTH = (1, 1, 1, 1, 1, 1, 0, 0)


def _sd2(in_channels: int, vector_dim: int | None = None) -> Fingerprint:
    return Fingerprint(
        channels=320,
        in_channels=in_channels,
        context_dim=1024,
        linear_projection=True,
        depth=_SD_DEPTH,
        mid_depth=1,
        vector_dim=vector_dim,
    )


def _xl(
    depth: tuple[int, ...], mid: int, vector_dim: int = 2816, hidden_dim: int | None = None
) -> Fingerprint:
    return Fingerprint(
        channels=320,
        in_channels=4,
        context_dim=2048,
        linear_projection=True,
        depth=depth,
        mid_depth=mid,
        vector_dim=vector_dim,
        hidden_dim=hidden_dim,
    )


KNOWN_UNETS: dict[Fingerprint, str] = {
    _sd2(5): "Stable Diffusion 2 depth",
    _sd2(4, 1536): "Stable Diffusion 2.1 unCLIP-L",
    _sd2(4, 2048): "Stable Diffusion 2.1 unCLIP-H",
    Fingerprint(
        channels=256,
        in_channels=7,
        context_dim=1024,
        linear_projection=True,
        depth=(0, 0, 1, 1, 1, 1, 1, 1),
        mid_depth=1,
    ): "Stable Diffusion x4 upscaler",
    Fingerprint(
        channels=384,
        in_channels=4,
        context_dim=1280,
        linear_projection=True,
        depth=(0, 0, 4, 4, 4, 4, 0, 0),
        mid_depth=4,
        vector_dim=2560,
    ): "SDXL refiner",
    _xl((0, 0, 2, 2, 4, 4), 0): "SSD-1B",
    _xl((0, 0, 1, 1, 2, 2), 0): "Segmind Vega",
    _xl((0, 2, 6), 6): "KOALA-1B",
    _xl((0, 2, 5), 0): "KOALA-700M",
    _xl((0, 0, 2, 2, 10, 10), 10, 5632, 4096): "Kolors",
    _xl((0, 0, 2, 2, 10, 10), 10, 5632): "Kolors",
}
"""Published UNets that no built-in variant converts yet, by fingerprint. A plugin's variant goes before them."""

_CLASSES: dict[str, Kind] = {
    "UNet2DConditionModel": "unet",
    CLASS_NAME: "linear-unet",
    "LinFusion": "linfusion",
    "ControlNetModel": "controlnet",
    "AutoencoderKL": "vae",
}
_NAMES: dict[Kind, str] = {
    "unet": "a UNet",
    "linear-unet": "a UNet with LinFusion attention merged into it",
    "lora": "a LoRA",
    "controlnet": "a ControlNet",
    "vae": "a VAE",
    "text-encoder": "a text encoder",
    "linfusion": "a LinFusion checkpoint",
    "unknown": "nothing that linzoo knows",
}
_LORA_STARTS = ("lora_", "lycoris_")
_LORA_PARTS = (".lora_", ".lora.", "_lora.")
_VAE_STARTS = (
    "first_stage_model.", "vae.", "encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "loss.",
)  # fmt: skip
_TEXT_STARTS = (
    "cond_stage_model.", "conditioner.", "text_model.", "transformer.", "embeddings.", "encoder.", "token_embedding.",
    "positional_embedding", "final_layer_norm.", "ln_final.", "text_projection", "logit_scale", "attn_mask",
    "vision_model.", "visual",
)  # fmt: skip


def kind_of_class(name: str) -> Kind | None:
    """What a folder holds by the class in its config; None where the class says nothing."""
    return _CLASSES.get(name)


def kind_of_names(names: Collection[str]) -> Kind:
    """What a file holds by its tensor names, looking for everything that is not a UNet first."""
    if any(name.startswith(_LORA_STARTS) or any(part in name for part in _LORA_PARTS) for name in names):
        return "lora"
    if any(
        name.startswith(("control_model.", "controlnet_cond_embedding.", "input_hint_block."))
        for name in names
    ):
        return "controlnet"
    if "0.to_q_.0.weight" in names or ("0.to_q.weight" in names and "0.to_out.0.weight" in names):
        return "linfusion"
    if layout_of(names) != "other":
        return "linear-unet" if any(".to_q_." in name for name in names) else "unet"
    # What follows also lies beside UNets whose names linzoo does not know: it must be all that there is.
    if any(name.startswith(("first_stage_model.", "encoder.down", "decoder.up")) for name in names):
        return "vae" if all(name.startswith(_VAE_STARTS) for name in names) else "unknown"
    if any("token_embedding.weight" in name for name in names):
        return "text-encoder" if all(name.startswith(_TEXT_STARTS) for name in names) else "unknown"
    return "unknown"


def name_of(kind: Kind) -> str:
    """The kind in words, with its article."""
    return _NAMES[kind]

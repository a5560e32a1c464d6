"""Configs of published SD-like UNets: fields of their ``unet/config.json`` that decide tensors."""

from __future__ import annotations

from typing import Any

_SD = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 2,
    "in_channels": 4,
    "out_channels": 4,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
_SD2 = {
    **_SD,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
_UNCLIP = {**_SD2, "class_embed_type": "projection"}
_XL = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "in_channels": 4,
    "out_channels": 4,
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}

UNETS: dict[str, dict[str, Any]] = {
    "sd15": _SD,
    "sd15-inpaint": {**_SD, "in_channels": 9},
    "sd15-instruct-pix2pix": {**_SD, "in_channels": 8},
    "sd15-lcm": {**_SD, "time_cond_proj_dim": 256},
    "sd21": _SD2,
    "sd21-inpaint": {**_SD2, "in_channels": 9},
    "sd21-instruct-pix2pix": {**_SD2, "in_channels": 8},
    "sd2-depth": {**_SD2, "in_channels": 5},
    "sd21-unclip-l": {**_UNCLIP, "projection_class_embeddings_input_dim": 1536},
    "sd21-unclip-h": {**_UNCLIP, "projection_class_embeddings_input_dim": 2048},
    "sd-x4-upscaler": {
        **_SD2,
        "block_out_channels": [256, 512, 512, 1024],
        "down_block_types": [
            "DownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
        ],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "in_channels": 7,
        "attention_head_dim": 8,
        "num_class_embeds": 1000,
        "only_cross_attention": [True, True, True, False],
    },
    "sdxl": _XL,
    "sdxl-inpaint": {**_XL, "in_channels": 9},
    "sdxl-instruct-pix2pix": {**_XL, "in_channels": 8},
    "sdxl-lcm": {**_XL, "time_cond_proj_dim": 256},
    "sdxl-refiner": {
        **_XL,
        "block_out_channels": [384, 768, 1536, 1536],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": 4,
        "attention_head_dim": [6, 12, 24, 24],
        "cross_attention_dim": 1280,
        "projection_class_embeddings_input_dim": 2560,
    },
    "ssd-1b": {
        **_XL,
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, 2, 4],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    },
    "segmind-vega": {
        **_XL,
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, 1, 2],
    },
    "koala-1b": {**_XL, "layers_per_block": 1, "transformer_layers_per_block": [1, 2, 6]},
    "koala-700m": {
        **_XL,
        "layers_per_block": 1,
        "transformer_layers_per_block": [1, 2, 5],
        "mid_block_type": "UNetMidBlock2D",
    },
    "kolors": {
        **_XL,
        "projection_class_embeddings_input_dim": 5632,
        "encoder_hid_dim": 4096,
        "encoder_hid_dim_type": "text_proj",
    },
}
"""The families of SD-like UNets that detection has to tell apart."""

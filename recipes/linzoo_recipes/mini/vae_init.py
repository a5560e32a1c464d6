"""A start for mini's autoencoder from which little training is needed: the mean colour of each 8x8 patch."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

COLOURS = 3
CARRIED = 2 * COLOURS


@torch.no_grad()
def start_as_patch_colours(vae: AutoencoderKL) -> None:
    """Set the weights so that latents 0..2 are patch colours and the decoder paints them back.

    The first six channels carry +r, -r, +g, -g, +b, -b through the whole net: silu(x) - silu(-x) = x, and group
    norm leaves such pairs without a mean to lose. Residual branches begin at zero; all other weights keep their
    random start. The posterior begins narrow (log-variance -6), as trained ones are.
    """
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            _zero(module.conv2)
            if module.conv_shortcut is not None:
                _carry(module.conv_shortcut)
        elif isinstance(module, Attention):
            _zero(module.to_out[0])
        elif isinstance(module, Upsample2D):
            _carry(module.conv)
        elif isinstance(module, Downsample2D):
            _carry(module.conv, average=True)
    for conv in (vae.encoder.conv_in, vae.decoder.conv_in):
        _split(conv)
    _join(vae.encoder.conv_out, scale=0.5)
    vae.encoder.conv_out.weight[vae.config.latent_channels :] *= 0.1
    vae.encoder.conv_out.bias[vae.config.latent_channels :] = -6.0
    _join(vae.decoder.conv_out, scale=0.8)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        nn.init.zeros_(conv.bias)
        nn.init.dirac_(conv.weight)


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.get_parameter("bias"))


def _carry(conv: nn.Conv2d, *, average: bool = False) -> None:
    """Pass the carried channels through; `average` takes the mean of the 2x2 pixels under a strided kernel."""
    middle = conv.kernel_size[0] // 2
    conv.weight[:CARRIED] = 0
    conv.get_parameter("bias")[:CARRIED] = 0
    for channel in range(CARRIED):
        if average:
            conv.weight[channel, channel, :2, :2] = 0.25
        else:
            conv.weight[channel, channel, middle, middle] = 1


def _split(conv: nn.Conv2d) -> None:
    """Turn the first three inputs into the six carried channels."""
    conv.weight[:CARRIED] = 0
    conv.get_parameter("bias")[:CARRIED] = 0
    for colour in range(COLOURS):
        conv.weight[2 * colour, colour, 1, 1] = 1
        conv.weight[2 * colour + 1, colour, 1, 1] = -1


def _join(conv: nn.Conv2d, scale: float) -> None:
    """Turn the six carried channels into the first three outputs."""
    conv.weight[:COLOURS] = 0
    conv.get_parameter("bias")[:COLOURS] = 0
    for colour in range(COLOURS):
        conv.weight[colour, 2 * colour, 1, 1] = scale
        conv.weight[colour, 2 * colour + 1, 1, 1] = -scale

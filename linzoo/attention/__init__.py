"""Attention: plans and layouts (no torch), the mixers, and how they are mounted in a UNet."""

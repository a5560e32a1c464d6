"""Figures from pictures, latents and features: pure functions on tensors, on any device, the same on every call."""

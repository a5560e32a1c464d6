"""Generalized linear attention on tensors: a reference, a PyTorch and a Triton implementation of one operator."""

"""Generalized linear attention on tensors: a reference, a PyTorch and a Triton implementation of one operator."""

from linzoo_kernels.dispatch import BackendError, use_backend
from linzoo_kernels.functional import apply_state, linear_attention, linear_attention_state, ln_leaky_relu
from linzoo_kernels.fuse import fuse_projections, unfuse
from linzoo_kernels.leaves import FuseError
from linzoo_kernels.reference import EPS
from linzoo_kernels.state import LinearState

__all__ = [
    "EPS",
    "BackendError",
    "FuseError",
    "LinearState",
    "apply_state",
    "fuse_projections",
    "linear_attention",
    "linear_attention_state",
    "ln_leaky_relu",
    "unfuse",
    "use_backend",
]

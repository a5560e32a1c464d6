"""Generalized linear attention written out from its definition: float64, every pair of tokens, no shared code.

y_i = sum_j a_ij v_j,  a_ij = q_i.k_j / (sum_l q_i.k_l + 1e-4 N),  q = elu(Wq (x + f(x))) + 1,  k likewise.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def positive(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0))) + 1


def weights(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """What each token, (N, d), takes from each other, (N, N); q and k are features."""
    scores = np.einsum("id,jd->ij", q, k)
    return scores / (scores.sum(axis=1, keepdims=True) + 1e-4 * len(k))


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    """(B, N, C) each, projected but not yet mapped to features."""
    out = np.empty_like(v)
    width = q.shape[-1] // heads
    for batch in range(len(q)):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            a = weights(positive(q[batch, :, part]), positive(k[batch, :, part]))
            out[batch, :, part] = np.einsum("ij,je->ie", a, v[batch, :, part])
    return out


class Layer:
    """One module of a checkpoint folder, read without linzoo."""

    def __init__(self, folder: Path, index: int) -> None:
        config = json.loads((folder / "config.json").read_text())["modules_list"][index]
        self.name, self.heads, self.mid_dim = (
            config[key] for key in ("module_name", "heads", "projection_mid_dim")
        )
        tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
        prefix = f"{index}."
        self.w = {
            key.removeprefix(prefix): value.astype(np.float64)
            for key, value in tensors.items()
            if key.startswith(prefix)
        }

    def branch(self, name: str, x: np.ndarray) -> np.ndarray:
        if self.mid_dim == -1:
            return x
        h = x @ self.w[f"{name}.0.weight"].T + self.w[f"{name}.0.bias"]
        h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
        h = h * self.w[f"{name}.1.weight"] + self.w[f"{name}.1.bias"]
        h = np.where(h > 0, h, 0.01 * h)
        return h @ self.w[f"{name}.3.weight"].T + self.w[f"{name}.3.bias"]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        q = (x + self.branch("to_q_", x)) @ self.w["to_q.weight"].T
        k = (x + self.branch("to_k_", x)) @ self.w["to_k.weight"].T
        v = x @ self.w["to_v.weight"].T
        return attend(q, k, v, self.heads) @ self.w["to_out.0.weight"].T + self.w["to_out.0.bias"]

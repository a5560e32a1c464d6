"""What torch knows of the Triton operators: schemas, shapes, gradients, graphs and operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from definition import attend, tensors
from linzoo_kernels import BackendError, linear_attention, ln_leaky_relu
from linzoo_kernels.ops import apply_state, linear_attention_state
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

EXACT = {"atol": 1e-12, "rtol": 1e-12}
OPS = torch.ops.linzoo_kernels
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.float32 if torch.cuda.is_available() else torch.float64
CLOSE = {"atol": 1e-5, "rtol": 1e-4} if torch.cuda.is_available() else EXACT


def inputs(length: int = 37, grad: bool = True, **options: Any) -> list[Tensor]:
    """q, k and v; k and v are cut out of one wider tensor."""
    q, k, v = tensors(2, length, 2, 8, dtype=DTYPE, **options)
    packed = torch.cat([k, v], dim=-1).to(DEVICE)
    return [x.detach().requires_grad_(grad) for x in (q.to(DEVICE), *packed.chunk(2, dim=-1))]


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return linear_attention(q, k, v, heads=2, backend="triton")


def test_opcheck_of_the_state() -> None:
    _, k, v = inputs()
    torch.library.opcheck(OPS.linear_attention_state.default, (k, v, 2, 3))


def test_the_state_of_half_precision_is_float32_to_the_compiler_too() -> None:
    _, k, v = (x.half() for x in inputs(grad=False))
    torch.library.opcheck(OPS.linear_attention_state.default, (k, v, 2, 0))


class Calls(TorchDispatchMode):
    """The arguments of every operator of the kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "linzoo_kernels":
            self.seen.append((func._opname, args))
        return func(*args, **(kwargs or {}))


def test_the_number_of_splits_reaches_every_operator() -> None:
    q, k, v = inputs(grad=False)
    with Calls() as calls:
        linear_attention(q, k, v, heads=2, backend="triton", num_splits=3)
    assert [(name, args[-1]) for name, args in calls.seen] == [
        ("linear_attention_state", 3),
        ("apply_state", 3),
    ]


def test_opcheck_of_its_application() -> None:
    q, k, v = inputs()
    sums = linear_attention_state(k, v, 2).detach().requires_grad_()
    torch.library.opcheck(OPS.apply_state.default, (q, sums, 37, 2, 1e-4, 0))


def test_opcheck_of_the_backwards() -> None:
    q, k, v = inputs(grad=False)
    sums = linear_attention_state(k, v, 2)
    torch.library.opcheck(OPS.linear_attention_state_backward.default, (k, v, sums, 2, 0))
    torch.library.opcheck(OPS.apply_state_backward.default, (q, sums, q, 37, 2, 1e-4, 0))


def test_opcheck_of_ln_leaky_relu() -> None:
    x, weight, bias = (torch.randn(*shape, device=DEVICE) for shape in ((2, 5, 16), (16,), (16,)))
    torch.library.opcheck(OPS.ln_leaky_relu.default, (x, weight, bias, 1e-5, 0.01))
    out = torch.zeros(2, 5, 48, device=DEVICE)[..., 16:32]
    torch.library.opcheck(OPS.ln_leaky_relu_out.default, (x, weight, bias, 1e-5, 0.01, out))


def test_gradients_are_those_of_the_definition() -> None:
    q, k, v = inputs()
    got = torch.autograd.grad(attention(q, k, v).square().sum(), (q, k, v))
    want = torch.autograd.grad(attend(q, k, v, 2).square().sum(), (q, k, v))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_a_gradient_may_be_an_expanded_number_or_transposed() -> None:
    q, k, v = inputs()
    out = attention(q, k, v)
    for gradient in (torch.ones((), device=DEVICE, dtype=DTYPE).expand_as(out), torch.randn_like(out.mT).mT):
        got = torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True)
        want = torch.autograd.grad(out, (q, k, v), gradient.contiguous(), retain_graph=True)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_saved_are_the_inputs_and_the_sums_alone() -> None:
    q, k, v = inputs()
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        attention(q, k, v)
    assert sorted(x.shape for x in saved) == sorted([q.shape, k.shape, v.shape, (2, 2, 8 * 8 + 8)])


def test_second_derivatives_are_refused() -> None:
    q, k, v = inputs()
    for differentiated in (q, k):
        (gradient,) = torch.autograd.grad(attention(q, k, v).sum(), differentiated, create_graph=True)
        with pytest.raises(
            BackendError, match="no backward of its own; for second derivatives pass backend='torch'"
        ):
            gradient.sum().backward()


def test_ln_leaky_relu_refuses_its_gradient() -> None:
    x = torch.randn(5, 16, device=DEVICE, requires_grad=True)
    weight = torch.ones(16, device=DEVICE)
    out = OPS.ln_leaky_relu(x, weight, weight, 1e-5, 0.01)
    with pytest.raises(BackendError, match="is for inference and has no backward"):
        out.sum().backward()


def test_results_do_not_alias_inputs() -> None:
    q, k, v = inputs(grad=False)
    sums = linear_attention_state(k, v, 2)
    results = [sums, apply_state(q, sums, 37, 2, 1e-4), *OPS.apply_state_backward(q, sums, q, 37, 2, 1e-4, 0)]
    pointers = {x.untyped_storage().data_ptr() for x in (q, k, v, *results)}
    assert len(pointers) == 2 + len(results)  # k and v are of one storage


def test_compiles_once_as_one_graph_for_any_number_of_tokens() -> None:
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    for length in (37, 21):
        qkv = inputs(length)
        for x in qkv:
            torch._dynamo.mark_dynamic(x, 1)
        got, want = compiled(*qkv), attention(*qkv)
        torch.testing.assert_close(got, want, **CLOSE)
        for a, b in zip(*(torch.autograd.grad(y.sum(), qkv) for y in (got, want)), strict=True):
            torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # inductor's own
def test_compiles_with_inductor() -> None:
    qkv = inputs()
    compiled = torch.compile(lambda q, k, v: attention(q.sin(), k, v).cos(), fullgraph=True)
    got, want = compiled(*qkv), attention(qkv[0].sin(), *qkv[1:]).cos()
    torch.testing.assert_close(got, want, **CLOSE)
    for a, b in zip(*(torch.autograd.grad(y.sum(), qkv) for y in (got, want)), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_compiled_ln_leaky_relu_writes_where_it_is_told() -> None:
    x, weight, bias = (torch.randn(*shape, device=DEVICE) for shape in ((2, 5, 16), (16,), (16,)))

    def between(x: Tensor) -> Tensor:
        wide = torch.zeros(2, 5, 48, device=DEVICE)
        ln_leaky_relu(x, weight, bias, out=wide[..., 16:32], backend="triton")
        return wide

    compiled = torch.compile(between, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), between(x))


class Attention(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v)


def test_exports_with_any_number_of_tokens() -> None:
    tokens = torch.export.Dim("tokens", min=2, max=1 << 24)
    shapes = {name: {1: tokens} for name in "qkv"}
    program = torch.export.export(Attention(), tuple(inputs(grad=False)), dynamic_shapes=shapes)
    other = inputs(9, grad=False, seed=1)
    torch.testing.assert_close(program.module()(*other), attend(*other, 2), **CLOSE)
    calls = [str(node.target) for node in program.graph.nodes if "linzoo" in str(node.target)]
    assert calls == ["linzoo_kernels.linear_attention_state.default", "linzoo_kernels.apply_state.default"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_meta_and_fake_tensors_have_shapes_only(dtype: torch.dtype) -> None:
    shape = (2, 5, 16)
    meta = attention(*(torch.empty(shape, device="meta", dtype=dtype) for _ in range(3)))
    assert (meta.device.type, meta.shape, meta.dtype) == ("meta", shape, dtype)
    with FakeTensorMode():
        fake = attention(*(torch.empty(shape, device=DEVICE, dtype=dtype) for _ in range(3)))
        on_a_gpu = linear_attention(
            *(torch.empty(shape, device="cuda", dtype=dtype) for _ in range(3)), heads=2
        )
    assert (fake.shape, fake.dtype) == (shape, dtype)
    assert (on_a_gpu.device.type, on_a_gpu.shape) == ("cuda", shape)


def test_a_large_head_on_a_gpu_that_is_not_there() -> None:
    with FakeTensorMode():
        x = torch.empty(1, 4, 320, device="cuda")
        assert linear_attention(x, x, x, heads=2).shape == (1, 4, 320)


def test_checkpointing_gives_the_same_gradients() -> None:
    qkv = inputs()
    plain = torch.autograd.grad(attention(*qkv).sum(), qkv)
    again = torch.autograd.grad(checkpoint(attention, *qkv, use_reentrant=False).sum(), qkv)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_operations_are_counted_as_those_of_pytorch() -> None:
    counts = {}
    for backend in ("torch", "triton"):
        qkv = inputs()
        with FlopCounterMode(display=False) as counter:
            out = linear_attention(*qkv, heads=2, backend=backend)
            forward = counter.get_total_flops()
            out.sum().backward()
        counts[backend] = forward, counter.get_total_flops()
    tokens = 2 * 37 * 16
    assert counts["torch"] == counts["triton"] == (2 * 2 * tokens * 8, 6 * 2 * tokens * 8)


def test_a_fixed_number_of_splits_gives_the_same_bits_for_every_batch_size() -> None:
    q, k, v = (torch.cat([x, x]) for x in inputs(300, grad=False))
    for splits in (1, 3):
        both = linear_attention(q, k, v, heads=2, backend="triton", num_splits=splits)
        one = linear_attention(q[:1], k[:1], v[:1], heads=2, backend="triton", num_splits=splits)
        assert torch.equal(both[:1], one)

"""Which backend runs, and what is said when one cannot or the input does not fit."""

from __future__ import annotations

import contextvars
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from definition import INTERPRETED, TRITON, attend, tensors
from linzoo_kernels import (
    BackendError,
    LinearState,
    apply_state,
    dispatch,
    functional,
    linear_attention,
    linear_attention_state,
    ln_leaky_relu,
    reference,
    use_backend,
)
from torch import Tensor

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def no_obstacle() -> str | None:
    return None


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINZOO_KERNELS", raising=False)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine whose GPU runs the kernels."""
    monkeypatch.setattr(dispatch, "device_obstacle", lambda device_type, index: None)


def test_argument_goes_before_context_before_environment_before_auto(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert dispatch.requested("auto") == "auto"
    monkeypatch.setenv("LINZOO_KERNELS", "compile")
    assert dispatch.requested("auto") == "compile"
    with use_backend("reference"):
        assert dispatch.requested("auto") == "reference"
        assert dispatch.requested("torch") == "torch"
        with use_backend("triton"):
            assert dispatch.requested("auto") == "triton"
            assert dispatch._of_process == ["triton", "reference"]
        assert dispatch.requested("auto") == "reference"
        with use_backend("auto"):
            assert dispatch.requested("auto") == "compile"
    assert dispatch.requested("auto") == "compile"
    monkeypatch.setenv("LINZOO_KERNELS", "")
    assert dispatch.requested("auto") == "auto"


def test_names_that_do_not_exist_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "auto, reference, torch, compile, triton"
    with pytest.raises(BackendError, match=f"backend: there is no backend 'cuda'. There are {names}"):
        linear_attention(*tensors(), heads=2, backend="cuda")
    with pytest.raises(BackendError, match=f"use_backend: there is no backend 'fast'. There are {names}"):
        use_backend("fast").__enter__()
    monkeypatch.setenv("LINZOO_KERNELS", "cuda")
    with pytest.raises(BackendError, match=f"LINZOO_KERNELS: there is no backend 'cuda'. There are {names}"):
        linear_attention(*tensors(), heads=2)
    linear_attention(*tensors(), heads=2, backend="torch")


def test_context_ends_with_an_error() -> None:
    with pytest.raises(ZeroDivisionError), use_backend("reference"):
        raise ZeroDivisionError
    assert dispatch.requested("auto") == "auto"


def test_threads_do_not_see_each_others_context() -> None:
    inside, seen = threading.Barrier(2), {}

    def work(name: str) -> None:
        with use_backend(name):
            inside.wait(10)
            seen[name] = dispatch.requested("auto")
            inside.wait(10)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("reference", "torch")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"reference": "reference", "torch": "torch"}
    assert dispatch.requested("auto") == "auto"
    assert dispatch._of_process == []


def test_compiled_code_follows_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = tensors(dtype=torch.float32)

    def inside(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with use_backend("reference"):
            return linear_attention(q, k, v, heads=2)

    def outside(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return linear_attention(q, k, v, heads=2)

    with_torch, with_reference = (
        linear_attention(q, k, v, heads=2, backend=name) for name in ("torch", "reference")
    )
    assert not torch.equal(with_torch, with_reference)
    compiled = torch.compile(outside, fullgraph=True, backend="eager")
    assert torch.equal(compiled(q, k, v), with_torch)
    with use_backend("reference"):
        assert torch.equal(compiled(q, k, v), with_reference)
    assert torch.equal(compiled(q, k, v), with_torch)
    assert torch.equal(torch.compile(inside, fullgraph=True, backend="eager")(q, k, v), with_reference)
    assert dispatch._of_process == []


@INTERPRETED
def test_auto_is_torch_on_a_cpu_even_where_triton_is_interpreted() -> None:
    assert dispatch.choose("auto", CPU, no_obstacle) == "torch"
    assert dispatch.choose("triton", CPU, no_obstacle) == "triton"


@pytest.mark.parametrize("device", ["meta", "mps", "xpu"])
def test_auto_is_torch_on_devices_that_triton_was_not_written_for(device: str) -> None:
    assert dispatch.choose("auto", torch.device(device), no_obstacle) == "torch"


def blocks_that_end_in_the_order_they_began() -> None:
    first, second = dispatch.use_backend("torch"), dispatch.use_backend("reference")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert dispatch._of_process == ["reference"]
    second.__exit__(None, None, None)


def test_blocks_of_several_threads_may_end_in_any_order() -> None:
    contextvars.copy_context().run(blocks_that_end_in_the_order_they_began)
    assert dispatch._of_process == []


@pytest.mark.usefixtures("cuda")
def test_auto_is_triton_on_a_gpu_where_nothing_is_in_the_way() -> None:
    assert dispatch.choose("auto", CUDA, no_obstacle) == "triton"
    assert dispatch.choose("auto", CUDA, lambda: "so it is") == "torch"
    with pytest.raises(BackendError, match=r"'triton' cannot run this: so it is\. Ask for backend 'torch'"):
        dispatch.choose("triton", CUDA, lambda: "so it is")


@pytest.mark.parametrize(
    ("heads_of", "options", "reason"),
    [
        ({"dim": 8, "value_dim": 4}, {}, "as wide in k as in v, and they have 8 and 4 channels"),
        ({"dim": 168}, {}, "heads of at most 160 channels, not 168"),
        ({"dtype": torch.float8_e5m2}, {}, "not float8_e5m2"),
        ({}, {"key_weights": torch.ones(1, 65)}, "takes no key_weights"),
    ],
)
def test_what_triton_does_not_take(heads_of: dict[str, Any], options: dict[str, Any], reason: str) -> None:
    dtype = heads_of.pop("dtype", torch.float32)
    q, k, v = (x.to(dtype) for x in tensors(**heads_of, dtype=torch.float32))
    found = functional._attention_obstacle(k, v, 2, **options)
    assert found is not None
    assert reason in found
    with pytest.raises(BackendError, match="cannot run this"):
        linear_attention(q, k, v, heads=2, backend="triton", **options)
    if dtype == torch.float32:
        linear_attention(q, k, v, heads=2, **options)


@pytest.mark.parametrize(
    ("capability", "found"), [((7, 5), "capability 8.0, and T4 has 7.5"), ((8, 0), None)]
)
def test_which_gpus_triton_runs_on(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], found: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "T4")
    reason = dispatch._device_obstacle.__wrapped__("cuda", 0)
    assert (reason is None) if found is None else (found in reason)


def test_without_triton_auto_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    monkeypatch.setattr(dispatch, "device_obstacle", dispatch._device_obstacle.__wrapped__)
    assert dispatch.choose("auto", CUDA, no_obstacle) == "torch"
    with pytest.raises(BackendError, match="triton is not installed"):
        dispatch.choose("triton", CUDA, no_obstacle)


def test_a_plain_process_imports_no_triton_and_refuses_it_on_a_cpu() -> None:
    program = """
import sys, torch, linzoo_kernels
assert "triton" not in sys.modules and "torch._dynamo" not in sys.modules
x = torch.ones(1, 4, 8)
linzoo_kernels.linear_attention(x, x, x, heads=2)
assert "triton" not in sys.modules
try:
    linzoo_kernels.linear_attention(x, x, x, heads=2, backend="triton")
except linzoo_kernels.BackendError as error:
    print(error)
from torch.utils.flop_counter import FlopCounterMode, flop_registry
assert torch.ops.linzoo_kernels.apply_state in flop_registry
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"TRITON_INTERPRET": "0", "PATH": "/usr/bin:/bin"},
    )
    assert ran.returncode == 0, ran.stderr
    assert "on a CPU Triton runs in its interpreter only (TRITON_INTERPRET=1" in ran.stdout


@pytest.mark.parametrize("backend", ["reference", "torch", TRITON])
def test_backends_agree(backend: str) -> None:
    q, k, v = tensors(2, 40, 2, 8, keys=70)
    want = attend(q, k, v, 2)
    got = linear_attention(q, k, v, heads=2, backend=backend)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
    with use_backend(backend):
        state = linear_attention_state(k, v, heads=2)
        torch.testing.assert_close(apply_state(q, state), want, atol=1e-12, rtol=1e-12)
    got = linear_attention(q, k, v, heads=2, eps=0.1, backend=backend)
    assert (got - want).abs().max() > 1e-4


def test_compile_runs_what_torch_compile_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Callable[..., Tensor]] = []

    def compile(function: Callable[..., Tensor], *, dynamic: bool) -> Callable[..., Tensor]:
        assert dynamic
        calls.append(function)
        return function

    dispatch.compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", compile)
    q, k, v = tensors()
    for _ in range(2):
        linear_attention(q, k, v, heads=2, backend="compile")
    assert [function.__name__ for function in calls] == ["linear_attention"]
    dispatch.compiled.cache_clear()


def test_a_failure_to_compile_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> Tensor:
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler")

    dispatch.compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: fail)
    with pytest.raises(
        BackendError, match=r"'compile' cannot run this: no C\+\+ compiler\. Ask for backend 'torch'"
    ):
        linear_attention(*tensors(), heads=2, backend="compile")
    dispatch.compiled.cache_clear()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # inductor's own
def test_compile_agrees_and_has_gradients() -> None:
    q, k, v = tensors(grad=True)
    want, got = (linear_attention(q, k, v, heads=2, backend=name) for name in ("torch", "compile"))
    torch.testing.assert_close(got, want)
    for a, b in zip(*(torch.autograd.grad(y.sum(), (q, k, v)) for y in (got, want)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", ["torch", TRITON])
def test_autocast_and_mixed_dtypes(backend: str) -> None:
    q, k, v = tensors(dtype=torch.float32)
    options: dict[str, Any] = {"heads": 2, "backend": backend}
    with torch.autocast("cpu", dtype=torch.float16):
        got = linear_attention(q, k, v, **options)
        state = linear_attention_state(k, v, **options)
        applied = apply_state(q, state, backend=backend)
        double = linear_attention(q.double(), k, v, **options)
    half = linear_attention(q.half(), k.half(), v.half(), **options)
    assert got.dtype == applied.dtype == torch.float16
    assert torch.equal(got, half)
    assert torch.equal(applied, half)
    assert state.sums.dtype == torch.float32
    assert double.dtype == torch.float64
    mixed = linear_attention(q.half(), k, v.half(), **options)
    assert mixed.dtype == torch.float16
    torch.testing.assert_close(mixed, half, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("backend", ["reference", "torch", TRITON])
def test_ln_leaky_relu_writes_where_it_is_told(backend: str) -> None:
    x, weight, bias = torch.randn(2, 5, 16), torch.randn(16), torch.randn(16)
    wide = torch.full((2, 5, 48), torch.nan)
    out = wide[..., 16:32]
    assert ln_leaky_relu(x, weight, bias, out=out, backend=backend) is out
    torch.testing.assert_close(out, reference.ln_leaky_relu(x, weight, bias))
    assert wide[..., :16].isnan().all()
    assert wide[..., 32:].isnan().all()


@INTERPRETED
def test_ln_leaky_relu_trains_except_in_triton() -> None:
    x, weight, bias = torch.randn(5, 16), torch.randn(16, requires_grad=True), torch.randn(16)
    ln_leaky_relu(x, weight, bias).sum().backward()
    assert weight.grad is not None
    with pytest.raises(BackendError, match="its ln_leaky_relu has no gradient"):
        ln_leaky_relu(x, weight, bias, backend="triton")
    with pytest.raises(ValueError, match="out is given and a gradient is recorded"):
        ln_leaky_relu(x, weight, bias, out=torch.empty(5, 16))


Q, K, V = (x.float() for x in tensors(2, 5, 2, 4, keys=6))
STATE = LinearState(torch.zeros(2, 2, 20), 6, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: linear_attention(Q, K, V, heads=3),
            r"k is \(2, 6, 8\): its 8 channels do not divide into 3 heads",
        ),
        (lambda: linear_attention(Q, K, V, heads=0), "do not divide into 0 heads"),
        (
            lambda: linear_attention(Q, K, V[..., :7], heads=2),
            r"v is \(2, 6, 7\): its 7 channels do not divide",
        ),
        (lambda: linear_attention(Q[0], K, V, heads=2), r"q is \(5, 8\): it must be \(batch, tokens, heads"),
        (lambda: linear_attention(Q[..., :4], K, V, heads=2), "q has 4 channels and k has 8"),
        (lambda: linear_attention(Q[:1], K, V, heads=2), "q has 1 batch entries and k has 2"),
        (lambda: linear_attention(Q, K, V[:1], heads=2), "v has 1 batch entries and k has 2"),
        (lambda: linear_attention(Q, K, V[:, :5], heads=2), "v has 5 tokens and k has 6"),
        (lambda: linear_attention(Q, K[:, :0], V[:, :0], heads=2), r"k is \(2, 0, 8\): it has 0 tokens"),
        (lambda: linear_attention(Q.to("meta"), K, V, heads=2), "q is on meta and k on cpu"),
        (lambda: linear_attention_state(K, V.to("meta"), heads=2), "v is on meta and k on cpu"),
        (
            lambda: linear_attention(Q.long(), K, V, heads=2),
            "q is torch.int64: it must be of a floating point",
        ),
        (
            lambda: linear_attention(Q, K.mT.contiguous().mT, V, heads=2),
            r"k is \(2, 6, 8\) with strides \(48, 1, 6\): the last stride must be 1, not 6; pass k.contiguous",
        ),
        (
            lambda: linear_attention(Q, K, V, heads=2, key_weights=torch.ones(2, 5)),
            r"key_weights is \(2, 5\) and k is \(2, 6, 8\): key_weights must be \(2 or 1, 6\)",
        ),
        (lambda: apply_state(Q[..., :6], STATE), "q has 6 channels and the state has 8"),
        (lambda: apply_state(Q[:1], STATE), "q has 1 batch entries and the state has 2"),
        (lambda: apply_state(Q.to("meta"), STATE), "q is on meta and the state on cpu"),
        (
            lambda: ln_leaky_relu(Q, Q[0, 0], Q[0, 0, :3]),
            r"bias is \(3,\) and x is \(2, 5, 8\): bias must be \(8,\)",
        ),
        (lambda: ln_leaky_relu(Q, Q[0, 0], Q[0, 0], out=Q[:1]), r"out is \(1, 5, 8\) torch.float32 on cpu"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_what_does_not_fit_is_named(call: Callable[[], Any], message: str, backend: str) -> None:
    with use_backend(backend), pytest.raises(ValueError, match=message):
        call()

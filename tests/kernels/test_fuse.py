"""Fused projections: the same function on products of the weights, which the weights and the state_dict do not notice."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from definition import attend
from hypothesis import given, settings
from hypothesis import strategies as st
from linzoo_benchmarks.official import official_attention
from linzoo_benchmarks.traffic import Traffic
from linzoo_kernels import (
    FuseError,
    LinearState,
    apply_state,
    forms,
    fuse_projections,
    linear_attention,
    linear_attention_state,
    unfuse,
    use_backend,
)
from linzoo_kernels.forms import FORMS, Form, choose_form
from linzoo_kernels.fuse import FusedProjections
from torch import Tensor, nn
from torch.autograd import gradcheck


class Layer(nn.Module):
    """A layer of the official layout; ``mid_dim`` -1 for no branches."""

    def __init__(self, width: int = 32, heads: int = 4, mid_dim: int = 32, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout(0.5)])
        self.to_q_, self.to_k_ = branch(width, mid_dim), branch(width, mid_dim)
        self.eval()

    def forward(self, x: Tensor, key_weights: Tensor | None = None) -> Tensor:
        q, k = self.to_q(x + self.to_q_(x)), self.to_k(x + self.to_k_(x))
        y = linear_attention(q, k, self.to_v(x), heads=self.heads, key_weights=key_weights)
        return self.to_out[1](self.to_out[0](y))

    def of(self, attention: Callable[..., Tensor], x: Tensor) -> Tensor:
        q, k = self.to_q(x + self.to_q_(x)), self.to_k(x + self.to_k_(x))
        return self.to_out[0](attention(q, k, self.to_v(x), self.heads))


def branch(width: int, mid_dim: int) -> nn.Module:
    if mid_dim == -1:
        return nn.Identity()
    norm = nn.LayerNorm(mid_dim)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return nn.Sequential(nn.Linear(width, mid_dim), norm, nn.LeakyReLU(0.01), nn.Linear(mid_dim, width))


def frozen(**options: int) -> tuple[Layer, FusedProjections, Tensor]:
    layer = Layer(**options).double().requires_grad_(False)
    return layer, fuse_projections(layer), tokens(dtype=torch.float64)


def tokens(batch: int = 2, length: int = 33, width: int = 32, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(length), dtype=dtype)


def relative(got: Tensor, want: Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mid_dim", [32, 2, -1])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@torch.no_grad()
def test_is_the_same_function(form: Form, mid_dim: int, heads: int, dtype: torch.dtype, bound: float) -> None:
    layer = Layer(32, heads, mid_dim).to(dtype)
    fused = fuse_projections(layer)
    for batch, length in ((1, 1), (3, 333)):
        x = tokens(batch, length, dtype=dtype)
        got = fused(x, form=form)
        assert got.dtype == dtype
        assert relative(got, layer(x)) <= bound
        assert relative(got, layer.double().of(attend, x.double())) <= bound
        layer.to(dtype)


@settings(deadline=None, max_examples=40)
@given(
    form=st.sampled_from(FORMS),
    batch=st.integers(1, 3),
    length=st.integers(1, 40),
    heads=st.sampled_from([1, 2, 3]),
    dim=st.integers(1, 7),
    mid_dim=st.sampled_from([-1, 1, 5]),
    piece=st.sampled_from([1, 50, 2**18]),
    seed=st.integers(0, 1000),
)
@torch.no_grad()
def test_is_the_same_function_for_all_shapes_and_pieces(
    form: Form, batch: int, length: int, heads: int, dim: int, mid_dim: int, piece: int, seed: int
) -> None:
    layer = Layer(heads * dim, heads, mid_dim, seed).double()
    x = tokens(batch, length, heads * dim, torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "PIECE", piece)
        assert relative(fuse_projections(layer)(x, form=form), layer(x)) <= 1e-12


@pytest.mark.parametrize("mid_dim", [32, 2, -1])
@torch.no_grad()
def test_tokens_may_be_a_slice_of_others(mid_dim: int) -> None:
    layer, wider = Layer(mid_dim=mid_dim), tokens(5, 40, 96)
    fused = fuse_projections(layer)
    for x in (wider[1:3, 3:, 32:64], wider[::2, ::3, :32], tokens(1, 4)[:0]):
        before = x.clone()
        torch.testing.assert_close(fused(x), layer(x), atol=1e-6, rtol=1e-5)
        assert torch.equal(x, before)


@torch.no_grad()
def test_keys_and_values_are_gone_before_the_queries_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    fused, seen = fuse_projections(Layer()), []

    def state(k: Tensor, v: Tensor, heads: int) -> LinearState:
        assert k.untyped_storage().data_ptr() == v.untyped_storage().data_ptr()
        seen.extend([weakref.ref(k), weakref.ref(v)])
        return linear_attention_state(k, v, heads=heads)

    def apply(q: Tensor, state: LinearState) -> Tensor:
        assert [each() for each in seen] == [None, None]
        return apply_state(q, state)

    monkeypatch.setattr("linzoo_kernels.fuse.linear_attention_state", state)
    monkeypatch.setattr("linzoo_kernels.fuse.apply_state", apply)
    fused(tokens(), form="merged")
    assert len(seen) == 2


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_constants_are_the_layers_own(form: Form) -> None:
    layer = Layer()
    layer.to_q_[1].eps, layer.to_k_[1].eps = 0.5, 0.1
    layer.to_q_[2].negative_slope, layer.to_k_[2].negative_slope = 0.3, 0.6
    assert relative(fuse_projections(layer)(tokens(), form=form), layer(tokens())) <= 1e-6


@torch.no_grad()
def test_a_removed_hook_is_no_obstacle() -> None:
    layer = Layer()
    layer.to_q.forward = layer.to_q.forward  # what diffusers leaves behind
    fuse_projections(layer).check(layer)


@torch.no_grad()
def test_keys_have_weights_in_the_merged_form_alone() -> None:
    layer, fused, x = frozen()
    weights = torch.rand(2, 33, dtype=torch.float64)
    weights[:, 20:] = 0
    for given_ in (weights, weights[:1]):
        assert relative(fused(x, given_), layer(x, given_)) <= 1e-12
    assert relative(fused(x, weights)[:, :20], fused(x[:, :20], weights[:, :20])) <= 1e-12
    with pytest.raises(FuseError, match="no key weights"):
        fused(x, weights, form="value-free")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mid_dim", [64, 4, -1])
@torch.no_grad()
def test_in_half_precision_errs_no_more_than_twice_as_much_as_unfused(
    dtype: torch.dtype, mid_dim: int
) -> None:
    layer = Layer(64, 4, mid_dim).to(dtype)
    x = tokens(2, 257, 64).to(dtype)
    fused = fuse_projections(layer)
    results = [fused(x, form=form) for form in FORMS]
    unfused, exact = layer(x), layer.double().of(attend, x.double())
    assert 0 < relative(unfused, exact) < 0.02
    for result in results:
        assert result.dtype == dtype
        assert relative(result, exact) <= 2 * relative(unfused, exact)


@pytest.mark.parametrize(("mid_dim", "unfused", "merged"), [(32, 8, 5), (2, 8, 5), (-1, 4, 3)])
@torch.no_grad()
def test_launches_fewer_products_and_nothing_between_them(mid_dim: int, unfused: int, merged: int) -> None:
    """Counted with Triton's operators, which need no memory for it; neither of the forms is a detour through the other."""
    with torch.device("meta"), use_backend("triton"):
        layer, x = Layer(mid_dim=mid_dim), torch.empty(2, 5, 32)
        with Traffic() as plain:
            layer(x)
        fused = fuse_projections(layer)
        with Traffic() as traffic:
            fused(x)
    assert (plain.gemms, traffic.gemms) == (unfused, merged)
    norms = 0 if mid_dim == -1 else 2
    assert traffic.ops["ln_leaky_relu_out"] == norms
    assert traffic.launches == merged + norms + 2  # and the operator's two

    fused, x = fuse_projections(Layer(mid_dim=mid_dim)), tokens()
    with Traffic() as traffic:
        fused(x, form="value-free")
    # as merged without to_out; with the tokens' product, the values', to_out's with the state, the output's
    assert traffic.gemms == merged - 1 + 4


@pytest.mark.parametrize(("mid_dim", "published", "mounted", "merged"), [(64, 58, 34, 23), (-1, 42, 18, 11)])
@torch.no_grad()
def test_memory_traffic(mid_dim: int, published: int, mounted: int, merged: int) -> None:
    """In elements read and written a token and channel; the weights, few beside so many tokens, among them."""
    with torch.device("meta"):
        layer, x = Layer(64, 4, mid_dim), torch.empty(2, 65536, 64)
        with Traffic() as official:
            layer.of(official_attention, x)
        with use_backend("triton"), Traffic() as plain:
            layer(x)
        fused = fuse_projections(layer)
        with use_backend("triton"), Traffic() as traffic:
            fused(x)
    assert official.launches > 2 * traffic.launches
    assert [round(each.units(x)) for each in (official, plain, traffic)] == [published, mounted, merged]


@torch.no_grad()
def test_the_layers_own_weights_and_state_dict_never_change() -> None:
    layer, x = Layer(), tokens()
    output, state = layer(x), copy.deepcopy(layer.state_dict())
    parameters, children = dict(layer.named_parameters()), list(layer._modules)

    def same() -> bool:
        now = layer.state_dict()
        return list(now) == list(state) and all(torch.equal(now[name], state[name]) for name in state)

    fused = fuse_projections(layer)
    fused(x)
    assert same()
    assert dict(layer.named_parameters()) == parameters
    assert layer.fused is fused
    assert torch.equal(layer(x), output)
    unfuse(layer)
    unfuse(layer)
    assert same()
    assert list(layer._modules) == children
    assert torch.equal(layer(x), output)


def test_products_go_where_the_layer_goes() -> None:
    layer = Layer()
    fused = fuse_projections(layer)
    exact = {name: buffer.clone() for name, buffer in fused.named_buffers()}
    each = ("w_in", "b_in", "w_branch")
    assert set(exact) == {f"{side}.{name}" for side in ("queries", "keys_and_values") for name in each}
    layer.half()
    assert {buffer.dtype for buffer in fused.buffers()} == {torch.float16}
    assert all(torch.equal(buffer, exact[name].half()) for name, buffer in fused.named_buffers())
    fused.check(layer)
    layer.float()
    fused.check(layer)  # no wider than it was fused
    assert {buffer.device.type for buffer in layer.to("meta").fused.buffers()} == {"meta"}


def test_what_was_fused_in_half_precision_is_refused_in_a_wider_one() -> None:
    layer = Layer().half()
    fused = fuse_projections(layer)
    layer.float()
    with pytest.raises(FuseError, match="brought to a wider precision"):
        fused.check(layer)
    layer.half()
    fused.check(layer)


def test_products_are_made_in_float32_and_rounded_once() -> None:
    layer = Layer().bfloat16()
    w, w2 = layer.to_q.weight, layer.to_q_[3].weight
    assert torch.equal(fuse_projections(layer).queries.w_branch, (w.float() @ w2.float()).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        autocast = fuse_projections(Layer())
    for product, want in zip(autocast.buffers(), fuse_projections(Layer()).buffers(), strict=True):
        assert torch.equal(product, want)


@pytest.mark.parametrize("mid_dim", [32, -1])
def test_gradients_of_the_tokens_are_those_of_the_unfused_layer(mid_dim: int) -> None:
    layer, fused, x = frozen(mid_dim=mid_dim)
    x.requires_grad_()
    weights = torch.rand(2, 33, dtype=torch.float64, requires_grad=True)
    want = torch.autograd.grad(layer(x, weights).square().sum(), (x, weights))
    got = torch.autograd.grad(fused(x, weights).square().sum(), (x, weights))
    assert [relative(a, b) <= 1e-12 for a, b in zip(got, want, strict=True)] == [True, True]
    assert gradcheck(fused, tokens(1, 3, dtype=torch.float64).requires_grad_(), fast_mode=True)


@torch.no_grad()
def test_is_mapped_over_a_further_dimension() -> None:
    _, fused, x = frozen()
    torch.testing.assert_close(torch.vmap(fused)(x[:, None]), fused(x)[:, None])


def test_gradients_of_the_weights_are_refused_with_the_remedy() -> None:
    layer = Layer()
    fused = fuse_projections(layer)
    with pytest.raises(FuseError, match=r"requires_grad_\(False\).*no_grad"):
        fused(tokens())
    with torch.no_grad():
        fused(tokens())
    layer.requires_grad_(False)
    with pytest.raises(FuseError, match=r"no gradients"):
        fused(tokens(), form="value-free")
    layer.train()
    with pytest.raises(FuseError, match="training mode"):
        fused.check(layer)


def test_of_two_forms_the_faster_is_taken_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fused, _ = frozen()
    monkeypatch.setattr("linzoo_kernels.fuse.choose_form", lambda *_: "value-free")

    def products(call: Callable[[], Tensor]) -> int:
        with Traffic() as traffic:
            call()
        return traffic.ops["baddbmm_"]

    x = tokens(1, dtype=torch.float64)
    with torch.no_grad():
        assert products(lambda: fused(x)) == 1
        assert products(lambda: fused(x, form="merged")) == 0
        assert products(lambda: fused(x, torch.ones(1, 33))) == 0
        with use_backend("torch"):  # which the value-free form would not use
            assert products(lambda: fused(x)) == 0
    assert products(lambda: fused(x)) == 0


def test_choice_of_form() -> None:
    chosen = [choose_form("cpu", torch.float32, length, 320) for length in (64, 959, 960, 65536)]
    assert chosen == ["merged", "merged", "value-free", "value-free"]
    assert choose_form("cuda", torch.float32, 65536, 320) == "merged"
    assert choose_form("cpu", torch.bfloat16, 65536, 320) == "merged"


def other_weight(layer: Layer) -> None:
    layer.to_k.weight = nn.Parameter(layer.to_k.weight.detach().clone())


def other_leaf(layer: Layer) -> None:
    layer.to_q_[3] = nn.Linear(32, 32)


def in_place(layer: Layer) -> None:
    layer.to_q_[1].weight.add_(1)


def loaded(layer: Layer) -> None:
    layer.load_state_dict(Layer(seed=1).state_dict())


def adapted(layer: Layer) -> None:
    wrapper = nn.Module()
    wrapper.base_layer = layer.to_v
    layer.to_v = wrapper


def hooked(layer: Layer) -> None:
    layer.to_q.forward = lambda x: x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_weight, "weights have changed"),
        (other_leaf, "weights have changed"),
        (in_place, "weights have changed"),
        (loaded, "weights have changed"),
        (lambda layer: layer.fused.expire(), "weights have changed"),
        (adapted, r"to_v carries an adapter \(LoRA\).*unload_lora_weights"),
        (hooked, "to_q is under a hook"),
    ],
)
@torch.no_grad()
def test_a_change_after_fusing_is_noticed_also_in_copies(
    change: Callable[[Layer], None], message: str
) -> None:
    layer = Layer()
    in_place(layer)
    fuse_projections(layer).check(layer)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    change(layer)
    for changed in (layer, copy.deepcopy(layer)):
        assert not changed.fused.is_current(changed)
        with pytest.raises(FuseError, match=message):
            changed.fused.check(changed)
    for clone in copies:
        clone.fused.check(clone)
        torch.testing.assert_close(clone.fused(tokens()), clone(tokens()), atol=1e-6, rtol=1e-5)
        change(clone)
        with pytest.raises(FuseError, match=message):
            clone.fused.check(clone)
    if change not in (adapted, hooked):
        fuse_projections(layer).check(layer)
        assert relative(layer.fused(tokens()), layer(tokens())) <= 1e-6


@torch.no_grad()
def test_weights_of_inference_mode() -> None:
    with torch.inference_mode():
        layer = Layer()
        fused = fuse_projections(layer)
        fused.check(layer)
        assert relative(fused(tokens()), layer(tokens())) <= 1e-6


@torch.no_grad()
def test_under_autocast_the_weights_precision_is_kept() -> None:
    layer, x = Layer(), tokens()
    fused = fuse_projections(layer)
    for form in FORMS:
        with torch.autocast("cpu", torch.bfloat16):
            got = [fused(x, form=form), fused(x.bfloat16(), form=form)]
        assert torch.equal(got[0], fused(x, form=form))
        assert relative(got[1], layer(x)) < 0.01


class Quantised(nn.Parameter):
    pass


def half_a_branch(layer: Layer) -> None:
    layer.to_k_ = nn.Identity()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (adapted, r"to_v carries an adapter .*fuse_lora.*unload_lora_weights"),
        (lambda x: setattr(x.to_q, "weight", Quantised(x.to_q.weight)), "to_q.weight is quantised"),
        (lambda x: x.to_k.to(torch.float8_e4m3fn), r"to_k.weight is quantised .*float8_e4m3fn"),
        (hooked, r"to_q is under a hook.*enable_model_cpu_offload"),
        (lambda x: setattr(x, "to_q", nn.Linear(32, 32)), "to_q has weight and bias; .* it has weight"),
        (lambda x: x.to_q_[1].__init__(32, elementwise_affine=False), "to_q_.1 has no weights"),
        (lambda x: delattr(x, "to_k"), "to_k is missing"),
        (half_a_branch, r"to_k_.0 is missing"),
        (lambda x: setattr(x, "to_q", nn.Conv1d(1, 1, 1)), r"to_q is a torch\.nn\..*Conv1d and not a torch.nn.Linear"),
    ],
)  # fmt: skip
@torch.no_grad()
def test_what_cannot_be_fused_is_refused_and_left_as_it_is(
    change: Callable[[Layer], None], message: str
) -> None:
    layer = Layer()
    change(layer)
    with pytest.raises(FuseError, match=message):
        fuse_projections(layer)
    assert not hasattr(layer, "fused")


@pytest.mark.parametrize("mid_dim", [32, -1])
@torch.no_grad()
def test_compiles_as_one_graph(mid_dim: int) -> None:
    layer = Layer(mid_dim=mid_dim)
    fused = fuse_projections(layer)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    for length in (33, 333):
        torch.testing.assert_close(compiled(tokens(length=length)), layer(tokens(length=length)))
    with pytest.raises(Exception, match=r"no torch\.compile"):
        compiled(tokens(), form="value-free")
    torch._dynamo.reset()

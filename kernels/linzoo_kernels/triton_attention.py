# ruff: noqa: N803 (constants are upper case, and annotations mean constants, as Triton programs have them)
# mypy: ignore-errors
"""The Triton kernels of linear attention: the state forward and backward, and its application forward and backward.

A program owns one head of one batch entry and walks a chunk of tokens, a tile of `BL` rows at a time. Programs are
numbered on grid axis 0 alone (the others end at 65,535), heads first: neighbouring heads share memory sectors when a head
is not a multiple of 32 bytes, so they should run at the same time.

Addresses are a 64-bit scalar that moves on with every tile, plus 32-bit offsets inside the tile. (Rows times stride is not
safe: B * L * C passes 2^31 at 16,384 pixels.)

A head of up to 128 channels is one piece, padded to `D0` columns; a larger one is two pieces, `D0 + D1` = 128 + 32, since
padding 160 to 256 neither fits in shared memory nor in registers. `D1` is 0 for one piece. Columns beyond `D` are masked.

`ACC` is what is accumulated in, `DOT` what the matrix products take, `PRECISION` how they treat float32.
"""

import triton
import triton.language as tl

# The backward pass puts the reciprocal of the normaliser, at most 1/eps, on phi(q). This factor, taken back from the sum,
# keeps that in the range of float16 where the normaliser is all eps; where it is not, the product stays a normal number.
_HEADROOM = tl.constexpr(0.0625)


@triton.jit
def _feature_map(x):
    """phi(x) = elu(x) + 1. (A minimum would turn NaN into 1; this keeps it.)"""
    return tl.where(x > 0, x + 1.0, tl.exp(tl.where(x > 0, 0.0, x)))


@triton.jit
def _place(L, CHUNK, H, NS):
    """What this program works on: head, batch entry, split, its first token and how many tokens it has."""
    program = tl.program_id(0)
    head = program % H
    split = program // H % NS
    batch = (program // H // NS).to(tl.int64)
    start = split.to(tl.int64) * CHUNK
    return head, batch, split, start, tl.minimum(L - start, CHUNK).to(tl.int32)


@triton.jit
def _mask(rows, columns, left, D: tl.constexpr):
    return (rows < left)[:, None] & (columns < D)[None, :]


@triton.jit
def _load_tile(ptr, rows, columns, stride, mask):
    return tl.load(ptr + rows[:, None] * stride + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _store_tile(ptr, rows, columns, stride, tile, mask):
    tl.store(ptr + rows[:, None] * stride + columns[None, :], tile.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _load_kv(sums_ptr, rows, columns, D: tl.constexpr):
    """A block of the d x d part of a head's sums."""
    return tl.load(
        sums_ptr + rows[:, None] * D + columns[None, :],
        mask=(rows < D)[:, None] & (columns < D)[None, :],
        other=0.0,
    )


@triton.jit
def _store_kv(sums_ptr, rows, columns, block, D: tl.constexpr):
    tl.store(
        sums_ptr + rows[:, None] * D + columns[None, :],
        block,
        mask=(rows < D)[:, None] & (columns < D)[None, :],
    )


@triton.jit
def _load_k1(sums_ptr, columns, D: tl.constexpr):
    """The vector part of a head's sums, which follows the d x d part."""
    return tl.load(sums_ptr + D * D + columns, mask=columns < D, other=0.0)


@triton.jit
def _store_k1(sums_ptr, columns, vector, D: tl.constexpr):
    tl.store(sums_ptr + D * D + columns, vector, mask=columns < D)


@triton.jit
def _magnitude(sums_ptr, c0, c1, D: tl.constexpr, D1: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr):
    """What the d x d part of a head's sums is divided by before its cast to `DOT`: its largest entry for float16, else 1.

    Gradients of the state are of the size of 1/tokens, sums of negative keys are small too, sums over many tokens are
    large: float16 has the range for none of them.
    """
    largest = tl.full((), 1.0, ACC)
    if DOT == tl.float16:  # noqa: SIM300
        largest = tl.max(tl.abs(_load_kv(sums_ptr, c0, c0, D)))
        if D1 > 0:
            largest = tl.maximum(largest, tl.max(tl.abs(_load_kv(sums_ptr, c0, c1, D))))
            largest = tl.maximum(largest, tl.max(tl.abs(_load_kv(sums_ptr, c1, c0, D))))
            largest = tl.maximum(largest, tl.max(tl.abs(_load_kv(sums_ptr, c1, c1, D))))
        largest = tl.where(
            largest > 1e-30, largest, 1.0
        )  # the reciprocal of a subnormal number would be infinite
    return largest


@triton.jit
def _load_operand(sums_ptr, c0, c1, factor, D: tl.constexpr, D1: tl.constexpr, DOT: tl.constexpr):
    """The d x d part of a head's sums times `factor` as `DOT`, in its blocks: of one piece the first one only."""
    kv00 = (_load_kv(sums_ptr, c0, c0, D) * factor).to(DOT)
    kv01 = kv00
    kv10 = kv00
    kv11 = kv00
    if D1 > 0:
        kv01 = (_load_kv(sums_ptr, c0, c1, D) * factor).to(DOT)
        kv10 = (_load_kv(sums_ptr, c1, c0, D) * factor).to(DOT)
        kv11 = (_load_kv(sums_ptr, c1, c1, D) * factor).to(DOT)
    return kv00, kv01, kv10, kv11


@triton.jit(do_not_specialize=["L", "CHUNK", "H", "NS", "count"])
def state_forward(
    k_ptr, v_ptr, sums_ptr, r_ptr, dz_ptr, stride_kb, stride_kl, stride_vb, stride_vl, L, CHUNK, H, NS, count,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, BL: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    """Partial sums of a chunk of tokens: phi(K)^T V, and phi(k) summed.

    With `GRADIENT` it is the second half of `apply_backward` for a large head: k is q, v is the output's gradient,
    r and dz are what the first half wrote for each token, and the sums are the gradient of the state.
    """
    head, batch, split, start, length = _place(L, CHUNK, H, NS)
    rows = tl.arange(0, BL)
    c0 = tl.arange(0, D0)
    k_ptr += batch * stride_kb + start * stride_kl + head * D
    v_ptr += batch * stride_vb + start * stride_vl + head * D
    row_ptr = (batch * H + head) * L + start
    kv00 = tl.zeros((D0, D0), dtype=ACC)
    k1_0 = tl.zeros((D0,), dtype=ACC)
    if D1 > 0:
        c1 = D0 + tl.arange(0, D1)
        kv01 = tl.zeros((D0, D1), dtype=ACC)
        kv10 = tl.zeros((D1, D0), dtype=ACC)
        kv11 = tl.zeros((D1, D1), dtype=ACC)
        k1_1 = tl.zeros((D1,), dtype=ACC)
    for tile in range(0, length, BL):
        left = length - tile
        mask0 = _mask(rows, c0, left, D)
        live = (rows < left)[:, None]
        k0 = _load_tile(k_ptr, rows, c0, stride_kl, mask0).to(ACC)
        v0 = _load_tile(v_ptr, rows, c0, stride_vl, mask0).to(DOT)
        key0 = tl.where(live, _feature_map(k0), 0.0)  # phi(0) is 1: rows that are not there must not count
        if GRADIENT:
            r = tl.load(r_ptr + row_ptr + rows, mask=rows < left, other=0.0) * _HEADROOM
            dz = tl.load(dz_ptr + row_ptr + rows, mask=rows < left, other=0.0)
            k1_0 += tl.sum(key0 * dz[:, None], axis=0)
            key0 *= r[:, None]
        else:
            k1_0 += tl.sum(key0, axis=0)
        key0 = tl.trans(key0.to(DOT))
        kv00 = tl.dot(key0, v0, kv00, input_precision=PRECISION, out_dtype=ACC)
        if D1 > 0:
            mask1 = _mask(rows, c1, left, D)
            k1 = _load_tile(k_ptr, rows, c1, stride_kl, mask1).to(ACC)
            v1 = _load_tile(v_ptr, rows, c1, stride_vl, mask1).to(DOT)
            key1 = tl.where(live, _feature_map(k1), 0.0)
            if GRADIENT:
                k1_1 += tl.sum(key1 * dz[:, None], axis=0)
                key1 *= r[:, None]
            else:
                k1_1 += tl.sum(key1, axis=0)
            key1 = tl.trans(key1.to(DOT))
            kv01 = tl.dot(key0, v1, kv01, input_precision=PRECISION, out_dtype=ACC)
            kv10 = tl.dot(key1, v0, kv10, input_precision=PRECISION, out_dtype=ACC)
            kv11 = tl.dot(key1, v1, kv11, input_precision=PRECISION, out_dtype=ACC)
        k_ptr += BL * stride_kl
        v_ptr += BL * stride_vl
        row_ptr += BL
    kv_scale = tl.full((), 1.0, ACC)
    k1_scale = kv_scale
    if GRADIENT:
        k1_scale = 1.0 / count.to(ACC)
        kv_scale = k1_scale / _HEADROOM
    batches = tl.num_programs(0) // H // NS
    sums_ptr += ((split.to(tl.int64) * batches + batch) * H + head) * (D * D + D)
    _store_kv(sums_ptr, c0, c0, kv00 * kv_scale, D)
    _store_k1(sums_ptr, c0, k1_0 * k1_scale, D)
    if D1 > 0:
        _store_kv(sums_ptr, c0, c1, kv01 * kv_scale, D)
        _store_kv(sums_ptr, c1, c0, kv10 * kv_scale, D)
        _store_kv(sums_ptr, c1, c1, kv11 * kv_scale, D)
        _store_k1(sums_ptr, c1, k1_1 * k1_scale, D)


@triton.jit(do_not_specialize=["L", "CHUNK", "H", "NS", "count", "eps"])
def apply_forward(
    q_ptr, sums_ptr, o_ptr, stride_qb, stride_ql, stride_ob, stride_ol, L, CHUNK, H, NS, count, eps,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, BL: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The output, phi(q) (KV / count) / (phi(q) . K1 / count + eps)."""
    head, batch, _split, start, length = _place(L, CHUNK, H, NS)
    rows = tl.arange(0, BL)
    c0 = tl.arange(0, D0)
    q_ptr += batch * stride_qb + start * stride_ql + head * D
    o_ptr += batch * stride_ob + start * stride_ol + head * D
    sums_ptr += (batch * H + head) * (D * D + D)
    mean = 1.0 / count.to(ACC)
    m0 = _load_k1(sums_ptr, c0, D) * mean
    c1 = c0
    if D1 > 0:
        c1 = D0 + tl.arange(0, D1)
        m1 = _load_k1(sums_ptr, c1, D) * mean
    scale = _magnitude(sums_ptr, c0, c1, D, D1, DOT, ACC)
    kv00, kv01, kv10, kv11 = _load_operand(sums_ptr, c0, c1, 1.0 / scale, D, D1, DOT)
    scale *= mean
    for tile in range(0, length, BL):
        left = length - tile
        mask0 = _mask(rows, c0, left, D)
        q0 = _load_tile(q_ptr, rows, c0, stride_ql, mask0).to(ACC)
        # Also 1 in columns that are not there, where KV and m are 0. The rows' selection changes no result: with it the
        # compiler maps each q once, where its loads are wide, and not again in the products' layout, at 8-way bank conflicts.
        live = (rows < left)[:, None]
        query0 = tl.where(live, _feature_map(q0), 1.0)
        z = tl.sum(query0 * m0[None, :], axis=1) + eps
        query0 = query0.to(DOT)
        o0 = tl.dot(query0, kv00, input_precision=PRECISION, out_dtype=ACC)
        if D1 > 0:
            mask1 = _mask(rows, c1, left, D)
            q1 = _load_tile(q_ptr, rows, c1, stride_ql, mask1).to(ACC)
            query1 = tl.where(live, _feature_map(q1), 1.0)
            z += tl.sum(query1 * m1[None, :], axis=1)
            query1 = query1.to(DOT)
            o0 = tl.dot(query1, kv10, o0, input_precision=PRECISION, out_dtype=ACC)
            o1 = tl.dot(query0, kv01, input_precision=PRECISION, out_dtype=ACC)
            o1 = tl.dot(query1, kv11, o1, input_precision=PRECISION, out_dtype=ACC) * (scale / z)[:, None]
            _store_tile(o_ptr, rows, c1, stride_ol, o1, mask1)
        o0 *= (scale / z)[:, None]
        _store_tile(o_ptr, rows, c0, stride_ol, o0, mask0)
        q_ptr += BL * stride_ql
        o_ptr += BL * stride_ol


@triton.jit(do_not_specialize=["L", "CHUNK", "H", "NS", "count", "eps"])
def apply_backward(
    q_ptr, sums_ptr, do_ptr, dq_ptr, dsums_ptr, r_ptr, dz_ptr,
    stride_qb, stride_ql, stride_gb, stride_gl, stride_dqb, stride_dql, L, CHUNK, H, NS, count, eps,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, BL: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """The gradients of q and, if `SUMS`, of the state (partial sums, as `state_forward` writes them).

    With r = 1/z and P = r dO KV^T: the normaliser's gradient is dz = -r (P . phi(q)), so that neither o nor its numerator
    is needed; dq = (P + dz m) phi'(q); dKV = (r phi(Q))^T dO; dK1 = sum of dz phi(q). phi' is min(phi, 1).
    The accumulators of a large head would not fit in registers beside the rest: then r and dz are written instead, and
    `state_forward` makes the sums from them.
    """
    head, batch, split, start, length = _place(L, CHUNK, H, NS)
    rows = tl.arange(0, BL)
    c0 = tl.arange(0, D0)
    q_ptr += batch * stride_qb + start * stride_ql + head * D
    do_ptr += batch * stride_gb + start * stride_gl + head * D
    dq_ptr += batch * stride_dqb + start * stride_dql + head * D
    sums_ptr += (batch * H + head) * (D * D + D)
    mean = 1.0 / count.to(ACC)
    m0 = _load_k1(sums_ptr, c0, D) * mean
    c1 = c0
    if D1 > 0:
        c1 = D0 + tl.arange(0, D1)
        m1 = _load_k1(sums_ptr, c1, D) * mean
    row_ptr = (batch * H + head) * L + start
    if SUMS:
        dkv = tl.zeros((D0, D0), dtype=ACC)
        dk1 = tl.zeros((D0,), dtype=ACC)
    scale = _magnitude(sums_ptr, c0, c1, D, D1, DOT, ACC)
    kv00, kv01, kv10, kv11 = _load_operand(sums_ptr, c0, c1, 1.0 / scale, D, D1, DOT)
    scale *= mean
    for tile in range(0, length, BL):
        left = length - tile
        mask0 = _mask(rows, c0, left, D)
        q0 = _load_tile(q_ptr, rows, c0, stride_ql, mask0).to(ACC)
        do0 = _load_tile(do_ptr, rows, c0, stride_gl, mask0).to(DOT)
        query0 = _feature_map(q0)  # 1 in rows that are not there, where dO is 0
        z = tl.sum(query0 * m0[None, :], axis=1) + eps
        if D1 > 0:
            mask1 = _mask(rows, c1, left, D)
            q1 = _load_tile(q_ptr, rows, c1, stride_ql, mask1).to(ACC)
            do1 = _load_tile(do_ptr, rows, c1, stride_gl, mask1).to(DOT)
            query1 = _feature_map(q1)
            z += tl.sum(query1 * m1[None, :], axis=1)
        r = 1.0 / z
        if SUMS:
            query_r = tl.trans((query0 * (r * _HEADROOM)[:, None]).to(DOT))
            dkv = tl.dot(query_r, do0, dkv, input_precision=PRECISION, out_dtype=ACC)
        p0 = tl.dot(do0, tl.trans(kv00), input_precision=PRECISION, out_dtype=ACC)
        if D1 > 0:
            p0 = tl.dot(do1, tl.trans(kv01), p0, input_precision=PRECISION, out_dtype=ACC)
            p1 = tl.dot(do0, tl.trans(kv10), input_precision=PRECISION, out_dtype=ACC)
            p1 = tl.dot(do1, tl.trans(kv11), p1, input_precision=PRECISION, out_dtype=ACC)
        dz = tl.sum(p0 * query0, axis=1)
        if D1 > 0:
            dz += tl.sum(p1 * query1, axis=1)
        dz *= r * scale
        dz *= -r
        dq0 = (p0 * (r * scale)[:, None] + dz[:, None] * m0[None, :]) * tl.minimum(query0, 1.0)
        _store_tile(dq_ptr, rows, c0, stride_dql, dq0, mask0)
        if D1 > 0:
            dq1 = (p1 * (r * scale)[:, None] + dz[:, None] * m1[None, :]) * tl.minimum(query1, 1.0)
            _store_tile(dq_ptr, rows, c1, stride_dql, dq1, mask1)
        if SUMS:
            dk1 += tl.sum(dz[:, None] * query0, axis=0)
        else:
            tl.store(r_ptr + row_ptr + rows, r, mask=rows < left)
            tl.store(dz_ptr + row_ptr + rows, dz, mask=rows < left)
            row_ptr += BL
        q_ptr += BL * stride_ql
        do_ptr += BL * stride_gl
        dq_ptr += BL * stride_dql
    if SUMS:
        batches = tl.num_programs(0) // H // NS
        dsums_ptr += ((split.to(tl.int64) * batches + batch) * H + head) * (D * D + D)
        _store_kv(dsums_ptr, c0, c0, dkv * (mean / _HEADROOM), D)
        _store_k1(dsums_ptr, c0, dk1 * mean, D)


@triton.jit(do_not_specialize=["L", "CHUNK", "H", "NS"])
def state_backward(
    k_ptr, v_ptr, dsums_ptr, dk_ptr, dv_ptr,
    stride_kb, stride_kl, stride_vb, stride_vl, stride_gb, stride_gl, L, CHUNK, H, NS,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, BL: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr,
):  # fmt: skip
    """Gradients dk = (V dKV^T + dK1) phi'(k), if `DK`, and dv = phi(K) dKV, if `DV`; both have the same strides.

    For a large head both at once would not fit in registers.
    """
    head, batch, _split, start, length = _place(L, CHUNK, H, NS)
    rows = tl.arange(0, BL)
    c0 = tl.arange(0, D0)
    k_ptr += batch * stride_kb + start * stride_kl + head * D
    v_ptr += batch * stride_vb + start * stride_vl + head * D
    dk_ptr += batch * stride_gb + start * stride_gl + head * D
    dv_ptr += batch * stride_gb + start * stride_gl + head * D
    dsums_ptr += (batch * H + head) * (D * D + D)
    dk1_0 = _load_k1(dsums_ptr, c0, D)
    c1 = c0
    if D1 > 0:
        c1 = D0 + tl.arange(0, D1)
        dk1_1 = _load_k1(dsums_ptr, c1, D)
    scale = _magnitude(dsums_ptr, c0, c1, D, D1, DOT, ACC)
    dkv00, dkv01, dkv10, dkv11 = _load_operand(dsums_ptr, c0, c1, 1.0 / scale, D, D1, DOT)
    for tile in range(0, length, BL):
        left = length - tile
        mask0 = _mask(rows, c0, left, D)
        key0 = _feature_map(_load_tile(k_ptr, rows, c0, stride_kl, mask0).to(ACC))
        if D1 > 0:
            mask1 = _mask(rows, c1, left, D)
            key1 = _feature_map(_load_tile(k_ptr, rows, c1, stride_kl, mask1).to(ACC))
        if DV:
            features0 = key0.to(DOT)
            dv0 = tl.dot(features0, dkv00, input_precision=PRECISION, out_dtype=ACC)
            if D1 > 0:
                features1 = key1.to(DOT)
                dv0 = tl.dot(features1, dkv10, dv0, input_precision=PRECISION, out_dtype=ACC)
                dv1 = tl.dot(features0, dkv01, input_precision=PRECISION, out_dtype=ACC)
                dv1 = tl.dot(features1, dkv11, dv1, input_precision=PRECISION, out_dtype=ACC) * scale
                _store_tile(dv_ptr, rows, c1, stride_gl, dv1, mask1)
            _store_tile(dv_ptr, rows, c0, stride_gl, (dv0 * scale), mask0)
        if DK:
            v0 = _load_tile(v_ptr, rows, c0, stride_vl, mask0).to(DOT)
            dk0 = tl.dot(v0, tl.trans(dkv00), input_precision=PRECISION, out_dtype=ACC)
            if D1 > 0:
                v1 = _load_tile(v_ptr, rows, c1, stride_vl, mask1).to(DOT)
                dk0 = tl.dot(v1, tl.trans(dkv01), dk0, input_precision=PRECISION, out_dtype=ACC)
                dk1 = tl.dot(v0, tl.trans(dkv10), input_precision=PRECISION, out_dtype=ACC)
                dk1 = tl.dot(v1, tl.trans(dkv11), dk1, input_precision=PRECISION, out_dtype=ACC)
                dk1 = (dk1 * scale + dk1_1[None, :]) * tl.minimum(key1, 1.0)
                _store_tile(dk_ptr, rows, c1, stride_gl, dk1, mask1)
            dk0 = (dk0 * scale + dk1_0[None, :]) * tl.minimum(key0, 1.0)
            _store_tile(dk_ptr, rows, c0, stride_gl, dk0, mask0)
        k_ptr += BL * stride_kl
        v_ptr += BL * stride_vl
        dk_ptr += BL * stride_gl
        dv_ptr += BL * stride_gl

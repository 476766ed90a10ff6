# forward
"""batch_norm_forward"""
import triton
import triton.language as tl


@triton.jit
def combine_sum(a, b):
    return a + b


@triton.jit
def sum_div_add_rsqrt(in_x, in_weight, in_bias, out_sum_0, out_sum_1, out_item_0, XBLOCK: tl.constexpr, RBLOCK: tl.constexpr):
    # sum_0, div_0, sub_0, mul_0, sum_1, div_1, add_1, rsqrt_1, mul_1, mul_2, item_0: i0 < 32, i1 < 4 reduced, i2 < 49 reduced
    i0 = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)[:, None]
    r_index = tl.arange(0, RBLOCK)[None, :]
    r_index_in = r_index < 196
    i2 = r_index % 49
    i1 = r_index // 49
    x = tl.load(in_x + i1 * 1568 + i0 * 49 + i2, r_index_in)
    # triton_programs.py:52 part of batch_norm
    sum_0 = tl.reduce(tl.where(r_index_in, x, 0.0), 1, combine_sum, keep_dims=True) + 0.0
    div_0 = tl.div_rn(sum_0, tl.full((), 196.0, tl.float32))
    sub_0 = x - div_0
    mul_0 = sub_0 * sub_0
    sum_1 = tl.reduce(tl.where(r_index_in, mul_0, 0.0), 1, combine_sum, keep_dims=True) + 0.0
    div_1 = tl.div_rn(sum_1, tl.full((), 196.0, tl.float32))
    add_1 = div_1 + 1e-05
    rsqrt_1_sqrt = tl.sqrt_rn(add_1)
    rsqrt_1 = tl.div_rn(tl.full((), 1.0, tl.float32), rsqrt_1_sqrt)
    mul_1 = sub_0 * rsqrt_1
    weight = tl.load(in_weight + i0)
    mul_2 = mul_1 * weight
    bias = tl.load(in_bias + i0)
    item_0 = mul_2 + bias
    tl.store(out_sum_0 + i0, sum_0)
    tl.store(out_sum_1 + i0, sum_1)
    tl.store(out_item_0 + i1 * 1568 + i0 * 49 + i2, item_0, r_index_in)


def batch_norm_forward_0(slot_0, slot_1, slot_2, slot_3, slot_4, slot_5, **options):
    sum_div_add_rsqrt[(8,)](slot_0, slot_1, slot_2, slot_3, slot_4, slot_5, XBLOCK=4, RBLOCK=256, num_warps=4, **options)
    return 0


# backward
"""batch_norm_backward"""
import triton
import triton.language as tl


@triton.jit
def combine_sum(a, b):
    return a + b


@triton.jit
def div(in_sum_0, out_div_0, XBLOCK: tl.constexpr):
    # div_0: i0 < 32
    i0 = tl.arange(0, XBLOCK)
    # triton_programs.py:52 part of batch_norm
    sum_0 = tl.load(in_sum_0 + i0)
    div_0 = tl.div_rn(sum_0, tl.full((), 196.0, tl.float32))
    tl.store(out_div_0 + i0, div_0)


@triton.jit
def div_add_mul_sum(in_sum_1, in_x, in_div_0, in_grad_item_0_0, in_weight, out_item_4, out_item_6, out_item_5_copy, XBLOCK: tl.constexpr, RBLOCK: tl.constexpr):
    # div_1, add_0, rsqrt_0, sub_1, mul_3, sum_2, mul_4, mul_5, div_2, sum_3, div_3, sub_2, mul_6, sub_3, mul_7, item_4, item_6, item_5.copy: i0 < 32, i1 < 4 reduced, i2 < 49 reduced
    i0 = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)[:, None]
    r_index = tl.arange(0, RBLOCK)[None, :]
    r_index_in = r_index < 196
    i2 = r_index % 49
    i1 = r_index // 49
    # triton_programs.py:52 part of batch_norm
    sum_1 = tl.load(in_sum_1 + i0)
    div_1 = tl.div_rn(sum_1, tl.full((), 196.0, tl.float32))
    # triton_programs.py:52 grad of batch_norm
    add_0 = div_1 + 1e-05
    rsqrt_0_sqrt = tl.sqrt_rn(add_0)
    rsqrt_0 = tl.div_rn(tl.full((), 1.0, tl.float32), rsqrt_0_sqrt)
    x = tl.load(in_x + i1 * 1568 + i0 * 49 + i2, r_index_in)
    # triton_programs.py:52 part of batch_norm
    div_0 = tl.load(in_div_0 + i0)
    # triton_programs.py:52 grad of batch_norm
    sub_1 = x - div_0
    # triton_programs.py:52
    grad_item_0_0 = tl.load(in_grad_item_0_0 + i1 * 1568 + i0 * 49 + i2, r_index_in)
    # triton_programs.py:52 grad of batch_norm
    mul_3 = grad_item_0_0 * sub_1
    sum_2 = tl.reduce(tl.where(r_index_in, mul_3, 0.0), 1, combine_sum, keep_dims=True) + 0.0
    mul_4 = sum_2 * rsqrt_0
    mul_5 = mul_4 * rsqrt_0
    div_2 = tl.div_rn(mul_5, tl.full((), 196.0, tl.float32))
    sum_3 = tl.reduce(tl.where(r_index_in, grad_item_0_0, 0.0), 1, combine_sum, keep_dims=True) + 0.0
    div_3 = tl.div_rn(sum_3, tl.full((), 196.0, tl.float32))
    sub_2 = grad_item_0_0 - div_3
    mul_6 = sub_1 * div_2
    sub_3 = sub_2 - mul_6
    mul_7 = sub_3 * rsqrt_0
    weight = tl.load(in_weight + i0)
    item_4 = mul_7 * weight
    tl.store(out_item_4 + i1 * 1568 + i0 * 49 + i2, item_4, r_index_in)
    tl.store(out_item_6 + i0, sum_3)
    tl.store(out_item_5_copy + i0, mul_4)


def batch_norm_backward_0(slot_2, slot_5, slot_3, slot_0, slot_4, slot_1, slot_6, slot_7, slot_8, **options):
    div[(1,)](slot_2, slot_5, XBLOCK=32, num_warps=1, **options)
    div_add_mul_sum[(8,)](slot_3, slot_0, slot_5, slot_4, slot_1, slot_6, slot_7, slot_8, XBLOCK=4, RBLOCK=256, num_warps=4, **options)
    return 0

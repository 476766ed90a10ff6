# forward
"""layer_norm_forward"""
import triton
import triton.language as tl


@triton.jit
def combine_sum(a, b):
    return a + b


@triton.jit
def sum_div_add_rsqrt(in_x, in_weight, in_bias, out_sum_0, out_sum_1, out_item_0, RBLOCK: tl.constexpr):
    # sum_0, item_2, sub_0, mul_0, sum_1, div_1, add_0, item_3, mul_1, mul_2, item_0: i0 < 64, i1 < 1024 reduced
    i0 = tl.program_id(0)
    i1 = tl.arange(0, RBLOCK)
    x = tl.load(in_x + i0 * 1024 + i1)
    # triton_programs.py:44 part of layer_norm
    sum_0 = tl.reduce(x, None, combine_sum) + 0.0
    item_2 = tl.div_rn(sum_0, tl.full((), 1024.0, tl.float32))
    sub_0 = x - item_2
    mul_0 = sub_0 * sub_0
    sum_1 = tl.reduce(mul_0, None, combine_sum) + 0.0
    div_1 = tl.div_rn(sum_1, tl.full((), 1024.0, tl.float32))
    add_0 = div_1 + 1e-05
    item_3_sqrt = tl.sqrt_rn(add_0)
    item_3 = tl.div_rn(tl.full((), 1.0, tl.float32), item_3_sqrt)
    mul_1 = sub_0 * item_3
    weight = tl.load(in_weight + i1)
    mul_2 = mul_1 * weight
    bias = tl.load(in_bias + i1)
    item_0 = mul_2 + bias
    tl.store(out_sum_0 + i0, sum_0)
    tl.store(out_sum_1 + i0, sum_1)
    tl.store(out_item_0 + i0 * 1024 + i1, item_0)


def layer_norm_forward_0(slot_0, slot_1, slot_2, slot_3, slot_4, slot_5, **options):
    sum_div_add_rsqrt[(64,)](slot_0, slot_1, slot_2, slot_3, slot_4, slot_5, RBLOCK=1024, num_warps=4, **options)
    return 0


# backward
"""layer_norm_backward"""
import triton
import triton.language as tl


@triton.jit
def combine_sum(a, b):
    return a + b


@triton.jit
def div(in_sum_0, out_item_2, XBLOCK: tl.constexpr):
    # item_2: i0 < 64
    i0 = tl.arange(0, XBLOCK)
    # triton_programs.py:44 part of layer_norm
    sum_0 = tl.load(in_sum_0 + i0)
    item_2 = tl.div_rn(sum_0, tl.full((), 1024.0, tl.float32))
    tl.store(out_item_2 + i0, item_2)


@triton.jit
def sub_div_mul_sum(in_x, in_item_2, in_sum_1, in_grad_item_0_0, in_weight, out_item_3, out_item_4, RBLOCK: tl.constexpr):
    # sub_0, div_1, add_0, item_3, mul_1, mul_4, sum_2, div_2, sub_2, mul_5, sum_3, div_3, mul_6, sub_3, item_4: i0 < 64, i1 < 1024 reduced
    i0 = tl.program_id(0)
    i1 = tl.arange(0, RBLOCK)
    x = tl.load(in_x + i0 * 1024 + i1)
    # triton_programs.py:44 part of layer_norm
    item_2 = tl.load(in_item_2 + i0)
    sub_0 = x - item_2
    sum_1 = tl.load(in_sum_1 + i0)
    div_1 = tl.div_rn(sum_1, tl.full((), 1024.0, tl.float32))
    add_0 = div_1 + 1e-05
    item_3_sqrt = tl.sqrt_rn(add_0)
    item_3 = tl.div_rn(tl.full((), 1.0, tl.float32), item_3_sqrt)
    mul_1 = sub_0 * item_3
    # triton_programs.py:44
    grad_item_0_0 = tl.load(in_grad_item_0_0 + i0 * 1024 + i1)
    weight = tl.load(in_weight + i1)
    # triton_programs.py:44 grad of layer_norm
    mul_4 = grad_item_0_0 * weight
    sum_2 = tl.reduce(mul_4, None, combine_sum) + 0.0
    div_2 = tl.div_rn(sum_2, tl.full((), 1024.0, tl.float32))
    sub_2 = mul_4 - div_2
    mul_5 = mul_4 * mul_1
    sum_3 = tl.reduce(mul_5, None, combine_sum) + 0.0
    div_3 = tl.div_rn(sum_3, tl.full((), 1024.0, tl.float32))
    mul_6 = mul_1 * div_3
    sub_3 = sub_2 - mul_6
    item_4 = sub_3 * item_3
    # triton_programs.py:44 part of layer_norm
    tl.store(out_item_3 + i0, item_3)
    # triton_programs.py:44 grad of layer_norm
    tl.store(out_item_4 + i0 * 1024 + i1, item_4)


@triton.jit
def sum(in_grad_item_0_0, in_x, in_item_2, in_item_3, out_sum_4, out_sum_6, XBLOCK: tl.constexpr, RBLOCK: tl.constexpr):
    # sum_4, sum_6: i0 < 2, i1 < 1024, i2 < 32 reduced
    x_index = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)[:, None]
    i1 = x_index % 1024
    i0 = x_index // 1024
    i2 = tl.arange(0, RBLOCK)[None, :]
    # triton_programs.py:44
    grad_item_0_0 = tl.load(in_grad_item_0_0 + i0 * 32768 + i2 * 1024 + i1)
    x = tl.load(in_x + i0 * 32768 + i2 * 1024 + i1)
    # triton_programs.py:44 part of layer_norm
    item_2 = tl.load(in_item_2 + i0 * 32 + i2)
    sub_0 = x - item_2
    item_3 = tl.load(in_item_3 + i0 * 32 + i2)
    mul_1 = sub_0 * item_3
    # triton_programs.py:44 grad of layer_norm
    mul_8 = grad_item_0_0 * mul_1
    sum_4 = tl.reduce(mul_8, 1, combine_sum, keep_dims=True) + 0.0
    sum_6 = tl.reduce(grad_item_0_0, 1, combine_sum, keep_dims=True) + 0.0
    tl.store(out_sum_4 + x_index, sum_4)
    tl.store(out_sum_6 + x_index, sum_6)


@triton.jit
def sum_1(in_sum_4, out_item_5, XBLOCK: tl.constexpr, RBLOCK: tl.constexpr):
    # item_5: i0 < 1024, i1 < 2 reduced
    i0 = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)[:, None]
    i1 = tl.arange(0, RBLOCK)[None, :]
    # triton_programs.py:44 grad of layer_norm
    sum_4 = tl.load(in_sum_4 + i1 * 1024 + i0)
    item_5 = tl.reduce(sum_4, 1, combine_sum, keep_dims=True) + 0.0
    tl.store(out_item_5 + i0, item_5)


def layer_norm_backward_0(slot_2, slot_5, slot_0, slot_3, slot_4, slot_1, slot_6, slot_7, slot_8, slot_10, slot_9, slot_11, **options):
    div[(1,)](slot_2, slot_5, XBLOCK=64, num_warps=1, **options)
    sub_div_mul_sum[(64,)](slot_0, slot_5, slot_3, slot_4, slot_1, slot_6, slot_7, RBLOCK=1024, num_warps=4, **options)
    sum[(32,)](slot_4, slot_0, slot_5, slot_6, slot_8, slot_10, XBLOCK=64, RBLOCK=32, num_warps=8, **options)
    sum_1[(2,)](slot_8, slot_9, XBLOCK=512, RBLOCK=2, num_warps=4, **options)
    sum_1[(2,)](slot_10, slot_11, XBLOCK=512, RBLOCK=2, num_warps=4, **options)
    return 0

# forward
"""softmax_forward"""
import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def combine_sum(a, b):
    return a + b


@triton.jit
def combine_max(a, b):
    return tl.maximum(a, b, tl.PropagateNan.ALL)


@triton.jit
def amax_sub_reciprocal_mul(in_x, out_amax_0, out_sum_0, out_softmax_0, RBLOCK: tl.constexpr):
    # amax_0, sub_0, exp_0, sum_0, reciprocal_0, softmax_0: i0 < 64, i1 < 1024 reduced
    i0 = tl.program_id(0)
    i1 = tl.arange(0, RBLOCK)
    x = tl.load(in_x + i0 * 1024 + i1)
    # triton_programs.py:40 part of softmax
    amax_0 = tl.reduce(x, None, combine_max)
    sub_0 = x - amax_0
    exp_0 = libdevice.exp(sub_0)
    sum_0 = tl.reduce(exp_0, None, combine_sum) + 0.0
    reciprocal_0 = tl.div_rn(tl.full((), 1.0, tl.float32), sum_0)
    softmax_0 = exp_0 * reciprocal_0
    tl.store(out_amax_0 + i0, amax_0)
    tl.store(out_sum_0 + i0, sum_0)
    tl.store(out_softmax_0 + i0 * 1024 + i1, softmax_0)


def softmax_forward_0(slot_0, slot_1, slot_2, slot_3, **options):
    amax_sub_reciprocal_mul[(64,)](slot_0, slot_1, slot_2, slot_3, RBLOCK=1024, num_warps=4, **options)
    return 0


# backward
"""softmax_backward"""
import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def combine_sum(a, b):
    return a + b


@triton.jit
def reciprocal(in_sum_0, out_reciprocal_0, XBLOCK: tl.constexpr):
    # reciprocal_0: i0 < 64
    i0 = tl.arange(0, XBLOCK)
    # triton_programs.py:40 part of softmax
    sum_0 = tl.load(in_sum_0 + i0)
    reciprocal_0 = tl.div_rn(tl.full((), 1.0, tl.float32), sum_0)
    tl.store(out_reciprocal_0 + i0, reciprocal_0)


@triton.jit
def sub_exp_mul_sum(in_x, in_amax_0, in_reciprocal_0, in_grad_softmax_0_0, out_softmax_backward_0, RBLOCK: tl.constexpr):
    # sub_0, exp_0, softmax_0, mul_1, sum_1, sub_1, softmax_backward_0: i0 < 64, i1 < 1024 reduced
    i0 = tl.program_id(0)
    i1 = tl.arange(0, RBLOCK)
    x = tl.load(in_x + i0 * 1024 + i1)
    # triton_programs.py:40 part of softmax
    amax_0 = tl.load(in_amax_0 + i0)
    sub_0 = x - amax_0
    exp_0 = libdevice.exp(sub_0)
    reciprocal_0 = tl.load(in_reciprocal_0 + i0)
    softmax_0 = exp_0 * reciprocal_0
    # triton_programs.py:40
    grad_softmax_0_0 = tl.load(in_grad_softmax_0_0 + i0 * 1024 + i1)
    # triton_programs.py:40 grad of softmax
    mul_1 = grad_softmax_0_0 * softmax_0
    sum_1 = tl.reduce(mul_1, None, combine_sum) + 0.0
    sub_1 = grad_softmax_0_0 - sum_1
    softmax_backward_0 = sub_1 * softmax_0
    tl.store(out_softmax_backward_0 + i0 * 1024 + i1, softmax_backward_0)


def softmax_backward_0(slot_2, slot_4, slot_0, slot_1, slot_3, slot_5, **options):
    reciprocal[(1,)](slot_2, slot_4, XBLOCK=64, num_warps=1, **options)
    sub_exp_mul_sum[(64,)](slot_0, slot_1, slot_4, slot_3, slot_5, RBLOCK=1024, num_warps=4, **options)
    return 0

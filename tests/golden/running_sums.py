# forward
"""running_sums_forward"""
import triton
import triton.language as tl


@triton.jit
def combine_sum(a, b):
    return a + b


@triton.jit
def mul_cumsum_relu(in_x, in_mask, out_cumsum_0, out_relu_0, RBLOCK: tl.constexpr):
    # mul_0, cumsum_0, relu_0: i0 < 64, i1 < 1024 reduced
    i0 = tl.program_id(0)
    i1 = tl.arange(0, RBLOCK)
    x = tl.load(in_x + i0 * 1024 + i1)
    mask = tl.load(in_mask + i0 * 1024 + i1)
    # triton_programs.py:88
    mul_0 = x * mask
    cumsum_0 = tl.associative_scan(mul_0.to(tl.float64) + 0.0, 0, combine_sum)
    cumsum_0 = cumsum_0.to(tl.float32)
    relu_0_lt = cumsum_0 < 0.0
    relu_0 = tl.where(relu_0_lt, 0.0, cumsum_0)
    tl.store(out_cumsum_0 + i0 * 1024 + i1, cumsum_0)
    tl.store(out_relu_0 + i0 * 1024 + i1, relu_0)


def running_sums_forward_0(slot_0, slot_1, slot_2, slot_3, **options):
    mul_cumsum_relu[(64,)](slot_0, slot_1, slot_2, slot_3, RBLOCK=1024, num_warps=4, **options)
    return 0


# backward
"""running_sums_backward"""
import triton
import triton.language as tl


@triton.jit
def combine_sum(a, b):
    return a + b


@triton.jit
def relu_threshold_backward_cumsum_mul(in_cumsum_0, in_grad_relu_0_0, in_mask, out_mul_1, RBLOCK: tl.constexpr):
    # relu_0, threshold_backward_0, cumsum_1, mul_1: i0 < 64, i1 < 1024 reduced
    i0 = tl.program_id(0)
    i1 = tl.arange(0, RBLOCK)
    # triton_programs.py:88
    cumsum_0 = tl.load(in_cumsum_0 + i0 * 1024 - i1 + 1023)
    relu_0_lt = cumsum_0 < 0.0
    relu_0 = tl.where(relu_0_lt, 0.0, cumsum_0)
    grad_relu_0_0 = tl.load(in_grad_relu_0_0 + i0 * 1024 - i1 + 1023)
    # triton_programs.py:88 grad of relu
    threshold_backward_0_le = relu_0 <= 0.0
    threshold_backward_0 = tl.where(threshold_backward_0_le, 0.0, grad_relu_0_0)
    # triton_programs.py:88 grad of cumsum
    cumsum_1 = tl.associative_scan(threshold_backward_0.to(tl.float64) + 0.0, 0, combine_sum)
    cumsum_1 = cumsum_1.to(tl.float32)
    mask = tl.load(in_mask + i0 * 1024 - i1 + 1023)
    # triton_programs.py:88 grad of mul
    mul_1 = cumsum_1 * mask
    tl.store(out_mul_1 + i0 * 1024 - i1 + 1023, mul_1)


def running_sums_backward_0(slot_1, slot_2, slot_0, slot_3, **options):
    relu_threshold_backward_cumsum_mul[(64,)](slot_1, slot_2, slot_0, slot_3, RBLOCK=1024, num_warps=4, **options)
    return 0

# forward
"""cross_entropy_forward"""
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
def amax_sub_mul_neg(in_x, in_target, out_amax_0, out_sum_0, out_eq_0, out_where_2, RBLOCK: tl.constexpr):
    # amax_0, sub_0, exp_0, sum_0, log_0, log_softmax_0, eq_0, where_0, where_1, pick_0, mul_0, neg_0, where_2: i0 < 512, i1 < 20003 reduced
    i0 = tl.program_id(0)
    target = tl.load(in_target + i0)
    # triton_programs.py:48 part of nll_loss
    eq_0 = target == (-100)
    where_0 = tl.where(eq_0, 0, target)
    where_1 = tl.where(eq_0, tl.full((), 0.0, tl.float32), 1.0)
    pick_0_le = 0 <= where_0
    pick_0_lt = where_0 < 20003
    pick_0_and = pick_0_le & pick_0_lt
    tl.device_assert(pick_0_and, "check 0")
    pick_0_where = tl.where(pick_0_and, where_0, 0)
    x_1 = tl.load(in_x + i0 * 20003 + pick_0_where)
    tl.store(out_eq_0 + i0, eq_0)
    amax_0_part = tl.full((RBLOCK,), float("-inf"), tl.float32)
    for i1_start in range(0, 20003, RBLOCK):
        i1 = i1_start + tl.arange(0, RBLOCK)
        i1_in = i1 < 20003
        x = tl.load(in_x + i0 * 20003 + i1, i1_in)
        # triton_programs.py:48 part of log_softmax
        amax_0_part = combine_max(amax_0_part, tl.where(i1_in, x, float("-inf")))
    amax_0 = tl.reduce(amax_0_part, None, combine_max)
    sub_0_1 = x_1 - amax_0
    tl.store(out_amax_0 + i0, amax_0)
    sum_0_part = tl.full((RBLOCK,), 0.0, tl.float32)
    for i1_start_2 in range(0, 20003, RBLOCK):
        i1 = i1_start_2 + tl.arange(0, RBLOCK)
        i1_in = i1 < 20003
        x = tl.load(in_x + i0 * 20003 + i1, i1_in)
        sub_0 = x - amax_0
        exp_0 = libdevice.exp(sub_0)
        sum_0_part += tl.where(i1_in, exp_0, 0.0)
    sum_0 = tl.reduce(sum_0_part, None, combine_sum) + 0.0
    log_0 = libdevice.log(sum_0)
    log_softmax_0_1 = sub_0_1 - log_0
    # triton_programs.py:48 part of nll_loss
    mul_0 = log_softmax_0_1 * where_1
    neg_0 = -mul_0
    where_2 = tl.where(eq_0, 0.0, neg_0)
    # triton_programs.py:48 part of log_softmax
    tl.store(out_sum_0 + i0, sum_0)
    # triton_programs.py:48 part of nll_loss
    tl.store(out_where_2 + i0, where_2)


@triton.jit
def sum_div(in_eq_0, in_where_2, out_item_1, out_item_0, RBLOCK: tl.constexpr):
    # item_1, sum_2, item_0: i0 < 512 reduced
    i0 = tl.arange(0, RBLOCK)
    # triton_programs.py:48 part of nll_loss
    eq_0 = tl.load(in_eq_0 + i0)
    where_1 = tl.where(eq_0, tl.full((), 0.0, tl.float32), 1.0)
    item_1 = tl.reduce(where_1, None, combine_sum) + 0.0
    where_2 = tl.load(in_where_2 + i0)
    sum_2 = tl.reduce(where_2, None, combine_sum) + 0.0
    item_0 = tl.div_rn(sum_2, item_1)
    tl.store(out_item_1, item_1)
    tl.store(out_item_0, item_0)


def cross_entropy_forward_0(slot_0, slot_1, slot_2, slot_3, slot_4, slot_5, slot_6, slot_7, **options):
    amax_sub_mul_neg[(512,)](slot_0, slot_1, slot_2, slot_3, slot_4, slot_5, RBLOCK=2048, num_warps=8, debug=True, sanitize_overflow=False, **options)
    sum_div[(1,)](slot_4, slot_5, slot_6, slot_7, RBLOCK=512, num_warps=2, **options)
    return 0


# backward
"""cross_entropy_backward"""
import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def combine_sum(a, b):
    return a + b


@triton.jit
def log(in_sum_0, out_log_0, XBLOCK: tl.constexpr):
    # log_0: i0 < 512
    i0 = tl.arange(0, XBLOCK)
    # triton_programs.py:48 part of log_softmax
    sum_0 = tl.load(in_sum_0 + i0)
    log_0 = libdevice.log(sum_0)
    tl.store(out_log_0 + i0, log_0)


@triton.jit
def eq_where_mul_neg(in_target, in_grad_item_0_0, in_item_1, out_eq_0, out_where_5, XBLOCK: tl.constexpr):
    # eq_0, where_1, mul_1, neg_1, where_5: i0 < 512
    i0 = tl.arange(0, XBLOCK)
    target = tl.load(in_target + i0)
    # triton_programs.py:48 part of nll_loss
    eq_0 = target == (-100)
    where_1 = tl.where(eq_0, tl.full((), 0.0, tl.float32), 1.0)
    # triton_programs.py:48
    grad_item_0_0 = tl.load(in_grad_item_0_0)
    # triton_programs.py:48 part of nll_loss
    item_1 = tl.load(in_item_1)
    # triton_programs.py:48 grad of nll_loss
    div_1 = tl.div_rn(grad_item_0_0, item_1)
    mul_1 = div_1 * where_1
    neg_1 = -mul_1
    where_5 = tl.where(eq_0, 0.0, neg_1)
    # triton_programs.py:48 part of nll_loss
    tl.store(out_eq_0 + i0, eq_0)
    # triton_programs.py:48 grad of nll_loss
    tl.store(out_where_5 + i0, where_5)


@triton.jit
def sub_eq_sum_mul(in_x, in_amax_0, in_log_0, in_eq_0, in_target, in_where_5, out_log_softmax_backward_0, RBLOCK: tl.constexpr):
    # sub_0, log_softmax_0, eq_2, nll_loss_backward_0, exp_1, sum_3, mul_2, log_softmax_backward_0: i0 < 512, i1 < 20003 reduced
    i0 = tl.program_id(0)
    # triton_programs.py:48 part of log_softmax
    amax_0 = tl.load(in_amax_0 + i0)
    log_0 = tl.load(in_log_0 + i0)
    # triton_programs.py:48 part of nll_loss
    eq_0 = tl.load(in_eq_0 + i0)
    target = tl.load(in_target + i0)
    where_0 = tl.where(eq_0, 0, target)
    # triton_programs.py:48 grad of nll_loss
    where_5 = tl.load(in_where_5 + i0)
    sum_3_part = tl.full((RBLOCK,), 0.0, tl.float32)
    for i1_start in range(0, 20003, RBLOCK):
        i1 = i1_start + tl.arange(0, RBLOCK)
        i1_in = i1 < 20003
        at = (i1).to(tl.int64)
        eq_2 = where_0 == at
        nll_loss_backward_0 = tl.where(eq_2, where_5, 0.0)
        # triton_programs.py:48 grad of log_softmax
        sum_3_part += tl.where(i1_in, nll_loss_backward_0, 0.0)
    sum_3 = tl.reduce(sum_3_part, None, combine_sum) + 0.0
    for i1_start_2 in range(0, 20003, RBLOCK):
        i1 = i1_start_2 + tl.arange(0, RBLOCK)
        i1_in = i1 < 20003
        x = tl.load(in_x + i0 * 20003 + i1, i1_in)
        # triton_programs.py:48 part of log_softmax
        sub_0 = x - amax_0
        log_softmax_0 = sub_0 - log_0
        at = (i1).to(tl.int64)
        # triton_programs.py:48 grad of nll_loss
        eq_2 = where_0 == at
        nll_loss_backward_0 = tl.where(eq_2, where_5, 0.0)
        # triton_programs.py:48 grad of log_softmax
        exp_1 = libdevice.exp(log_softmax_0)
        mul_2 = exp_1 * sum_3
        log_softmax_backward_0 = nll_loss_backward_0 - mul_2
        tl.store(out_log_softmax_backward_0 + i0 * 20003 + i1, log_softmax_backward_0, i1_in)


def cross_entropy_backward_0(slot_3, slot_6, slot_1, slot_5, slot_4, slot_7, slot_8, slot_0, slot_2, slot_9, **options):
    log[(1,)](slot_3, slot_6, XBLOCK=512, num_warps=2, **options)
    eq_where_mul_neg[(1,)](slot_1, slot_5, slot_4, slot_7, slot_8, XBLOCK=512, num_warps=2, **options)
    sub_eq_sum_mul[(512,)](slot_0, slot_2, slot_6, slot_7, slot_1, slot_8, slot_9, RBLOCK=2048, num_warps=8, **options)
    return 0

"""The C backend: loop IR in, one C11 translation unit out.

printer.py   a whole source: kernels, segments, threads
schedule.py  one kernel: which axis lies along the lanes, how many passes the reduced axes need
nest.py      its parallel loops and work items, filled by pointwise.py, rows.py or columns.py
reducing.py  what rows and columns share; reductions.py holds the accumulators
matmul.py    the matrix product
body.py      statements on vectors of lanes; scalars.py is the table from scalar op to C text
helpers.py   small C functions that a source uses (loads, selects, conversions); math.py the mathematical ones
isa.py       vector types and instruction sets
"""

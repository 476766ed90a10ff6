"""The C backend: loop IR in, one C11 translation unit out.

printer.py   a whole source: kernels, segments, threads
nest.py      one kernel: its axis of vectors, its passes over the reduction axes, its loops
body.py      statements on vectors of lanes; scalars.py is the table from scalar op to C text
helpers.py   small C functions that a source uses (loads, selects, conversions); math.py the mathematical ones
isa.py       vector types and instruction sets
"""

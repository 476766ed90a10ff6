"""From graphs to programs, in this order (generate.py):

prepare.py      the graph in code generation's terms: what kernels compute, what torch computes, what lies in memory
fuse.py         which values one kernel computes together; coordinates.py is its arithmetic
placement.py    which values are stored, and which are computed again where they are read
siblings.py     kernels that only share what they load become one
schedule.py     the order of kernels and calls
lower.py        a group of values as statements of the loop IR (loops.py); axes.py finishes its loop axes
plan.py         slots and the arena
c/              the printer

interpret.py runs the loop IR without a printer, for tests.
"""

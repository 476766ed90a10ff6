"""From graphs to programs: fusion, loop kernels, C text, and the host program."""

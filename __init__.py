"""smelt: a graph compiler for PyTorch."""

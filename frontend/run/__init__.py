"""What later calls do: a program as a call, as a node of autograd's graph, and as a tree of paths."""

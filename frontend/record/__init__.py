"""What a run computes, as a pure graph: every op of it, aliasing and mutation, gradients, backward passes inside."""

"""Training: the step, its two wrappers, the state on disk, and the loop around them."""

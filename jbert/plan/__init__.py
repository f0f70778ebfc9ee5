"""What a step takes on a TPU, from the TPU's own compiler and without a TPU."""

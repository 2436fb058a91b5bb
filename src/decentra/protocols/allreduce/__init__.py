"""allreduce: the sum in the clear, signed and certified. The control and the baseline; it hides nothing."""

"""The driver on virtual ports: many peers in one process, under a virtual clock and a seed."""

"""shamir-gram: robust rules on secret shares of updates, from inner products of their sketches alone."""

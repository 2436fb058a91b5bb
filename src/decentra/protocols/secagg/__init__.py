"""secagg: sums of masked vectors without a server (``specs/secagg``)."""

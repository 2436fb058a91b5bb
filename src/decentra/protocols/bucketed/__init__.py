"""bucketed: private sums within buckets, and a robust rule over the buckets' means (``specs/bucketed``)."""

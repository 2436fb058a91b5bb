"""Rendezvous: readiness, rosters, and one common state, before any protocol begins (``specs/rendezvous``)."""

"""Certify: a roster settles on one value under one context (``specs/certify``)."""

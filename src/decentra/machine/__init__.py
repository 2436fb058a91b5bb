"""The vocabulary of the machines: what can happen to one (events) and what it can ask for (effects)."""

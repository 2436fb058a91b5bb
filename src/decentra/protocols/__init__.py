"""The machines: one package a protocol, and two that every protocol begins and ends with (rendezvous, certify)."""

"""Carrying messages between authenticated peers: one interface, two implementations, one contract suite.

`decentra.transport.base` is the interface, `decentra.transport.simulated` a network in one process under a virtual
clock, `decentra.transport.zeromq` the real one: ZeroMQ over TCP with CURVE. Nothing above knows which it is. A
transport may lose messages when a connection breaks; `decentra.transfer` makes them whole again.

There is no NAT traversal: a peer must be reachable at the address that the others have for it. Behind NAT, use a VPN.
"""

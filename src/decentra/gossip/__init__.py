"""Who is up, and which peers average together where one group does not hold them all.

Membership (``specs/membership``) is a machine like a round's, but it lives as long as the session, and what it sends
are datagrams: no entries, no journal, no transcript. A driver carries it so:

- It makes one `Membership` a session: ``boot`` from the journal (it must grow with every start), 32 fresh random bytes
  as the seed, the identity's ``sign``, and a check of a member's signature. Then it handles `Start`.
- A datagram is `messages.pack` of a message, in one frame of its own kind on the control lane, sent once and never
  again. The transport names the sender; `messages.read` gives the message or blames that sender.
- Each happening goes to `Membership.handle` with the driver's clock, one at a time. ``Say`` is sent, or dropped where
  the neighbour is not connected; ``SetTimer`` gives ``Expired`` later; ``Changed`` goes to whoever shows status;
  ``Abort`` ends the process. A RemoteError leaves the machine as it was, and is the sender's.
- Before a round it reads `Membership.away`: whom rendezvous need not wait for, as it does for those it benched itself.
  Nothing else of a round reads membership (MB-10). `Membership.snapshot` is for ``decentra status``.
- `Leave` before the process ends says goodbye, so that nobody waits.
"""

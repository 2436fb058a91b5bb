"""The numbers of membership, each with its reason. Times are seconds."""

from __future__ import annotations

PERIOD = 1.0
"""One probe begins in each protocol period (Das, Gupta and Motivala 2002, "SWIM", T'), while this peer is healthy."""

PATIENCE = 0.5
"""An acknowledgement may take so long before others are asked: half a period leaves the other half to them."""

PROXIES = 3
"""Members asked to probe in one's place (SWIM's k): three lost ways at 10 % loss leave 0.1 %."""

NACK_SHARE = 0.8
"""A proxy says that it got no answer after this part of PATIENCE, so that its word comes within the asker's period."""

MOST_HEALTH = 8
"""The local health multiplier stops here: periods and patience are at most nine times as long (Dadgar, Phillips and
Currey 2018, "Lifeguard", S)."""

SUSPICION_FLOOR = 5.0
"""No suspicion excludes sooner: training starves the CPU for seconds. Times log10(n) above ten peers (Lifeguard, α = 5
periods), since the refutation has farther to go."""

SUSPICION_STRETCH = 6.0
"""How much longer than the floor a suspicion lasts without confirmations beyond c+1 (Lifeguard, β)."""

CONFIRMATIONS = 3
"""Suspicions beyond c+1 that bring the time down to the floor (Lifeguard, K); fewer where honest peers are fewer."""

SPREAD = 3.0
"""A statement is told ⌈SPREAD·ln(n+1)⌉ times (SWIM's λ): all but n^(2-2·SPREAD) of the peers hear it that way."""

SYNC_EVERY = 30.0
"""Views are compared with a random peer so often: what gossip lost is repaired, at a few bytes a second."""

SYNC_DOUBT = 10.0
"""Views are compared so often while somebody is under suspicion: c+1 authors must find each other."""

SYNC_BUSY = 32
"""With more statements to tell than four datagrams carry, a peer compares views at once instead of waiting."""

SYNC_PAUSE = 3.0
"""But not more often than this."""

SYNC_PATIENCE = 10.0
"""Who was away and speaks is compared with once in so long, whether or not it refutes."""

MOST_CARRIED = 8
"""Statements in one datagram: 8 of 139 bytes, 64 of a proof and a frame's header fit 1,400."""

MOST_SYNCED = 64
"""Statements in one comparison: a whole view of the largest group."""

DATAGRAM_BYTES = 1400
"""The longest datagram but a comparison: with a frame's header and CURVE's it fits a packet of 1,500."""

SYNC_BYTES = 12_800
"""The longest comparison: 64 statements, 64 heads, 64 sets of suspecting members."""

LATE = 0.5
"""A timer that runs out so much late tells that this peer was starved: answers may lie unread, and a probe that seems
to have failed tells nothing."""

CALM = 1.0
"""A peer refutes at most once in so long, so that liars set the pace of nobody's gossip."""

COST_RATE = 32.0
"""Signatures that one neighbour can make this peer check or give, a second; an honest one needs some of these."""

COST_BURST = 256.0
"""And so many at once: four whole comparisons."""

MOST_RELAYED = 2
"""Probes that this peer carries out for one asker at a time: an honest one has one, and perhaps the last one's rest."""

MOST_BOOTS = (1 << 30) - 1
"""Boots fit 30 bits, so that an incarnation and a flag fit the wire's numbers."""

MOST_REFUTATIONS = (1 << 32) - 1
"""Refutations of one boot: at one a second, 136 years."""

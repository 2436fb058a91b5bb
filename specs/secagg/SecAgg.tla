------------------------------- MODULE SecAgg -------------------------------
(***************************************************************************)
(* Certify and unmask, steps 4 and 5 of secagg: the twin of model.py, by   *)
(* another road.  MODEL.md says what is left out and why that is sound,    *)
(* and what is compared between the two.                                   *)
(*                                                                         *)
(* model.py keeps what every peer did; here the state is what was sent: a  *)
(* growing set of signed votes, then the certificate and the shares shown. *)
(* The liars have signed everything and hold a share of everything, so     *)
(* they only count: t votes can be shown to somebody once t - c honest     *)
(* peers have cast theirs.  A lost message is one that nobody acts on, and *)
(* a stopped peer is one that takes no more steps.                         *)
(***************************************************************************)
EXTENDS Integers, FiniteSets

CONSTANTS
    Honest, Liars,              \* the peers, by name
    Views,                      \* the numbers of the views that are explored
    Values,                     \* what can be proposed; two are enough
    Quorum, Threshold, Floor,   \* votes to a certificate, shares to a secret, the least |U|; T each, or there is a hole
    Holes                       \* what is left out of the protocol; {} is the protocol

AllHoles == {
    "no lock",              \* a commit binds nobody
    "frozen lock",          \* no later prepares release a lock
    "stale lock",           \* prepares from before the lock release it as well
    "one vote a round",     \* who has prepared never prepares again, in any view
    "prepares certify",     \* t prepares are the certificate, nobody commits
    "late commits",         \* one may commit in a view after voting in a later one
    "both shares",          \* who shows shares shows those of either secret
    "no certificate"}       \* shares are shown on a proposer's word

Peers == Honest \union Liars
N == Cardinality(Peers)
C == Cardinality(Liars)
T == (N + C) \div 2 + 1

ASSUME /\ Honest \intersect Liars = {}
       /\ 1 <= C /\ C <= N - 2
       /\ Views \subseteq Nat /\ Views # {} /\ Values # {}
       /\ {Quorum, Threshold, Floor} \subseteq Nat
       /\ Floor > C
       /\ Holes \subseteq AllHoles

VARIABLES
    prepares, commits,  \* the votes of honest peers, as <<who, view, value>>; dropped when a value is certified
    certified,          \* the honest part of every U that is certified, Fail among them; {} while there is only voting
    shown               \* for each honest peer: the honest part of the U it has shown its shares for, or Nothing

vars == <<prepares, commits, certified, shown>>

Votes == Honest \X Views \X Values
Fail == {}
Nothing == {}   \* shares are never shown under Fail, so that it can mean this too

-----------------------------------------------------------------------------
(* What a lying proposer can justify.  t peers show what they hold and own *)
(* all slices; U is what each of them holds.  A slice may have been lost   *)
(* on the way to any owner but its sender, and a liar claims what it likes.*)

Given(owners) ==
    {U \in SUBSET Peers : \A k \in Peers \ U : \E o \in owners : o # k \/ o \in Liars}

AllGiven == UNION {Given(owners) : owners \in {O \in SUBSET Peers : Cardinality(O) = T}}

Outcomes ==
    {U \intersect Honest : U \in {W \in AllGiven : Cardinality(W) >= Floor}}
        \union (IF \E U \in AllGiven : Cardinality(U) < Floor THEN {Fail} ELSE {})

Init ==
    /\ prepares = {}
    /\ commits = {}
    /\ certified = IF "no certificate" \in Holes THEN Outcomes ELSE {}
    /\ shown = [i \in Honest |-> Nothing]

-----------------------------------------------------------------------------
(* Step 4, certify: Tendermint's rule.                                     *)

HasQuorum(votes, v, x) == Cardinality({i \in Honest : <<i, v, x>> \in votes}) + C >= Quorum

Prepared == {s \in Views \X Values : HasQuorum(prepares, s[1], s[2])}   \* each with t prepares to show

VotedAfter(i, v) == \E w \in Views, x \in Values : w > v /\ <<i, w, x>> \in prepares \union commits

\* The latest commit of i, as a set of one <<view, value>>, or of none.
Lock(i) ==
    {s \in Views \X Values :
        /\ <<i, s[1], s[2]>> \in commits
        /\ \A w \in Views, x \in Values : <<i, w, x>> \in commits => w <= s[1]}

\* Does the lock of i let it prepare x in view v, when it is shown t prepares of each <<view, value>> in proofs?
Free(i, v, x, proofs) ==
    \/ "no lock" \in Holes
    \/ \A lock \in Lock(i) :
        \/ lock[2] = x
        \/ /\ "frozen lock" \notin Holes
           /\ \E proof \in proofs :
                /\ proof[2] = x
                /\ proof[1] < v
                /\ proof[1] > lock[1] \/ "stale lock" \in Holes

\* Who would prepare x in view v. (Sets of peers, as TLC takes one step for each way in which a condition is met.)
Willing(v, x, proofs) ==
    {i \in Honest :
        /\ ~VotedAfter(i, v)
        /\ \A w \in Views, y \in Values : <<i, w, y>> \in prepares => w # v /\ "one vote a round" \notin Holes
        /\ Free(i, v, x, proofs)}

Prepare(i, v, x) ==
    /\ certified = {}
    /\ i \in Willing(v, x, Prepared)
    /\ prepares' = prepares \union {<<i, v, x>>}
    /\ UNCHANGED <<commits, certified, shown>>

Ready(v, x) ==
    {i \in Honest :
        /\ <<v, x>> \in Prepared
        /\ \A y \in Values : <<i, v, y>> \notin commits
        /\ VotedAfter(i, v) => "late commits" \in Holes}

Commit(i, v, x) ==
    /\ certified = {}
    /\ "prepares certify" \notin Holes
    /\ i \in Ready(v, x)
    /\ commits' = commits \union {<<i, v, x>>}
    /\ UNCHANGED <<prepares, certified, shown>>

Certificates ==
    LET votes == IF "prepares certify" \in Holes THEN prepares ELSE commits
    IN  {x \in Values : \E v \in Views : HasQuorum(votes, v, x)}

\* Only now does it matter which outcome a value stands for; the votes have done their work.
Certify ==
    /\ certified = {}
    /\ Certificates # {}
    /\ \E outcome \in [Certificates -> Outcomes] : certified' = {outcome[x] : x \in Certificates}
    /\ prepares' = {}
    /\ commits' = {}
    /\ UNCHANGED shown

Vote == \E i \in Honest, v \in Views, x \in Values : Prepare(i, v, x) \/ Commit(i, v, x)

-----------------------------------------------------------------------------
(* Step 5, unmask: under a certificate, once, the share of b_k for every k *)
(* in U and of s_k for every other.                                        *)

Show(i, U) ==
    /\ shown[i] = Nothing
    /\ shown' = [shown EXCEPT ![i] = U]
    /\ UNCHANGED <<prepares, commits, certified>>

Unmask == \E i \in Honest, U \in certified \ {Fail} : Show(i, U)

Next == Vote \/ Certify \/ Unmask

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
(* What the liars know then.  y_i = x_i + PRG(b_i) and a pad with every    *)
(* other honest j, from k_ij, which either of s_i and s_j gives.  A pad    *)
(* drops out of a sum over S if it is known, or stands in it twice, with   *)
(* opposite signs.                                                         *)

Showing == {i \in Honest : shown[i] # Nothing}

SeedRebuilt(k) == Cardinality({i \in Showing : k \in shown[i] \/ "both shares" \in Holes}) + C >= Threshold

KeyRebuilt(k) == Cardinality({i \in Showing : k \notin shown[i] \/ "both shares" \in Holes}) + C >= Threshold

Computable ==
    {S \in SUBSET Honest \ {{}} :
        /\ \A i \in S : SeedRebuilt(i)
        /\ \A i \in S, j \in Honest \ S : KeyRebuilt(i) \/ KeyRebuilt(j)}

-----------------------------------------------------------------------------
(* What must hold.                                                         *)

TypeOK ==
    /\ prepares \subseteq Votes /\ commits \subseteq Votes
    /\ certified \subseteq Outcomes
    /\ shown \in [Honest -> SUBSET Honest]

\* SA-5: no two values are certified.
OneCertificate == Cardinality(Certificates) <= 1

\* SA-5: while t peers live, liars that vote for once among them, an honest proposer of a view after all others gets the
\* highest lock among theirs prepared. Then all commit, as nobody has voted in a later view.
NoStuckProposer ==
    certified = {} =>
        \A live \in SUBSET Honest \ {{}} : Cardinality(live) + C >= Quorum =>
            LET locks == UNION {Lock(i) : i \in live}
                highest == {s \in locks : \A other \in locks : other[1] <= s[1]}
                offers == IF locks = {} THEN Values ELSE {s[2] : s \in highest}
                later == 1 + CHOOSE v \in Views : \A w \in Views : w <= v
            IN  \A x \in offers :
                    LET willing == live \intersect Willing(later, x, highest)
                    IN  willing = live \/ Cardinality(willing) >= Quorum

\* SA-3: nobody loses both secrets.
OneSecret == \A k \in Honest : ~(SeedRebuilt(k) /\ KeyRebuilt(k))

\* SA-6, SA-7: no sum over fewer than two honest peers, and no two different sums.
NoLoneSum ==
    /\ \A S \in Computable : Cardinality(S) >= 2
    /\ Cardinality(Computable) <= 1

\* SA-4, SA-7: who is outside a certified U, or was certified to fail, is masked again: it is in no sum of this context.
FreedStaysHidden == \A S \in Computable, U \in certified : S \subseteq U

=============================================================================

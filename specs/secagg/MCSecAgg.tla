------------------------------ MODULE MCSecAgg ------------------------------
(***************************************************************************)
(* One state of every class that renaming peers or values makes.  Where    *)
(* states are counted it is for NEXT Vote alone: of unmask, model.py folds *)
(* something else, namely who has shown which shares.                      *)
(***************************************************************************)
EXTENDS SecAgg, TLC

Symmetry == Permutations(Honest) \union Permutations(Values)

=============================================================================

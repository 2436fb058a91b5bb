"""mesh: every update whole to everybody, and one rule evaluated by all on one certified set. It hides nothing."""

"""Who is up, and which peers average together where one group does not hold them all."""

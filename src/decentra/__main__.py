"""``python -m decentra`` is ``decentra``."""

from decentra.cli import main

if __name__ == "__main__":
    main()

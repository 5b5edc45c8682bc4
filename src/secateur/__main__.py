"""`python -m secateur`: the command line."""

from __future__ import annotations

from secateur.cli import main

if __name__ == "__main__":
    main()

"""`python -m sync.cli` is the command `tandem`."""

from sync.cli import main

main()

"""`python -m crosslens`."""

from .cli import main

main()

"""`python -m jepa` and `accelerate launch -m jepa` are `jepa`."""

from jepa.cli import main

main()

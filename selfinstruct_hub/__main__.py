"""`python -m selfinstruct_hub` is the command line."""

from selfinstruct_hub.cli import main

main()

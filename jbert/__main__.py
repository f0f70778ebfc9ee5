"""`python -m jbert` is the `jbert` command."""

import sys

from jbert.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m modeling_dualspace` is the command `dualspace`; `accelerate launch -m modeling_dualspace` starts many."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

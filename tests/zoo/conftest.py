"""Make the zoo's scripts importable: they run as scripts, with their folder first on the path."""

import sys
from pathlib import Path

ZOO = Path(__file__).parents[2] / "experiments" / "zoo"
if str(ZOO) not in sys.path:
    sys.path.insert(0, str(ZOO))

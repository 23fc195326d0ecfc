"""What pytest leaves out when it looks for doctests, and which examples property tests draw."""

import os
from importlib.util import find_spec

from hypothesis import settings

# The same examples in every run: a commit that passed passes again. `HYPOTHESIS_PROFILE=search` looks for new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("search")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

collect_ignore = [] if find_spec("numba") else ["evomerge/merge/fused/kernels.py"]
collect_ignore_glob = ["tests/golden/*"]  # scripts that run other implementations, which are not installed here

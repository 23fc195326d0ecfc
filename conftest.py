"""What pytest leaves out when it looks for doctests."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("numba") else ["evomerge/merge/fused/kernels.py"]
collect_ignore_glob = ["tests/golden/*"]  # scripts that run other implementations, which are not installed here

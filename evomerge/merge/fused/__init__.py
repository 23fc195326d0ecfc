"""Merges in one compiled loop, where numba is installed (the extra `fast`): the torch path's bytes, much faster.

`form` says which merges; `kernels` are the loops; `run` feeds them with blocks of files or of resident tensors.
"""

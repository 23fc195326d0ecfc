"""Contracts that every implementation, ours or a plug-in's, inherits as tests."""

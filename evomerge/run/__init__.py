"""The search as a pure state machine, and what was asked for."""

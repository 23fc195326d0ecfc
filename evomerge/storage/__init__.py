"""What lasts: the store contract and its SQL implementation."""

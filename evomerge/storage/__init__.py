"""What lasts: the store contract (`store`) and its SQL implementation (`sql`: tables, pages, migrations)."""

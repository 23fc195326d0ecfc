"""Ask and tell."""

"""Published merge methods as presets."""

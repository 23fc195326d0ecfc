"""Item response theory and its rivals: full scores from few items."""

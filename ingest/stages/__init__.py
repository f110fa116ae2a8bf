"""The two stages of a run: photos, then captions."""

"""From the engine's hits to a page of results: depth, filters by words, corrections, cut-off, groups and folds."""

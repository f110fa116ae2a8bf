"""Models: from photos and captions to unit vectors of one space."""

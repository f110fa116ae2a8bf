"""Fills the index: annotations and photos in, two collections of vectors out."""

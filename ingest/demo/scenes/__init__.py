"""The demo's data set: captioned scenes, drawn by code."""

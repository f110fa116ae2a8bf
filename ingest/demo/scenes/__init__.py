"""Generate the demo's data set: captioned scenes, drawn by code."""

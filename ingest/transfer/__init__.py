"""Copy, back up and restore collections."""

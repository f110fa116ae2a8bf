"""What an evaluation prints and writes."""

"""The command line: options, the form of results on a terminal, and how a process starts and ends."""

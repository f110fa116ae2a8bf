"""Read an embedded index through the process on this machine that has it open."""

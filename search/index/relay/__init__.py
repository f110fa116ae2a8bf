"""An embedded index that another process of this machine has open."""

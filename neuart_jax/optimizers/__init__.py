"""How pixels are moved."""

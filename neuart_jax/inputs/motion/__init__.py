"""How the pixels of a clip move from frame to frame, and where that can be trusted."""

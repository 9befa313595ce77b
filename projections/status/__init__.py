"""How the read side stands: how far, how healthy."""

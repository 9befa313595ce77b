"""Who asks: API keys, tokens of an issuer, and what their claims stand for."""

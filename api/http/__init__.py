"""The HTTP API: every route, requests read, answers and problems written."""

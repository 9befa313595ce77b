"""gunicorn: its configuration, and the guard around its connections."""

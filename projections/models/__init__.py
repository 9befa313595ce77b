"""The read models, one question a file: its tables and its fold."""

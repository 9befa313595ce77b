"""The desk of an earlier version as test material, and how it was made."""

"""The resources, one file for what lies under one address."""

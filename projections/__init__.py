"""The read side: folds of the sealed log into tables, one question a file, each with its DDL, fold and queries."""

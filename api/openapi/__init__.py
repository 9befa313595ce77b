"""The contract: the table of operations, and the document made of it."""

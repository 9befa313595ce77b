"""`deskledger demo`: the whole procedure on a desk of its own, shown as it goes and compared with the source."""

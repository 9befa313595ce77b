"""`deskledger demo`: the procedure's every path on a desk of its own."""

"""The ledger checker: judges what became of every record version, from outside the hub."""

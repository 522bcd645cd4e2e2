"""The runtime: our readers feed Faust agents, in batches, and acknowledge only what is done."""

"""What flows: pure types, no I/O. Every record of ours carries `cd_schema`, and version N reads N-1."""

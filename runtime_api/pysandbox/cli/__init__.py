"""The command line: one module per command, read by a small table-driven parser."""

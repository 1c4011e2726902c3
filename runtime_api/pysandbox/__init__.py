"""pysandbox: one container runtime, any number of ways to isolate."""

VERSION = "0.1.0"

"""Compare backends and runtimes: how fast (bench)."""

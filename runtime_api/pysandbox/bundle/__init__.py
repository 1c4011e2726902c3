"""A bundle made of an image: what `pysandbox bundle` does. Nothing of an image is believed (docs/bundle.md)."""

"""Made by pysandbox.ttrpc.generate."""

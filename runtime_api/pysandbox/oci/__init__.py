"""OCI bundles: reading and checking config.json, and what the runtime specification names."""

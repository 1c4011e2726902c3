"""The namespaces backend: containers on the host's kernel, as runc makes them."""

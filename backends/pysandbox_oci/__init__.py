"""The oci backend: containers of any installed OCI runtime, driven by its command line."""

"""A guest that does on a shared tree what tests ask it to, as root of a machine of its own: Python in a jailed QEMU."""

"""The microvm backend: containers in a virtual machine of their own, under their own kernel."""

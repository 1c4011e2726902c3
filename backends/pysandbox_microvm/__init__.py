"""The microvm backend: containers in a virtual machine of their own, under their own kernel."""

#: What commands import before they fork (`pysandbox.warm.preload`): the sandbox process has the rest to itself.
PRELOADED = (
    "backend", "container", "creation", "execution", "features", "place", "planning", "service", "settings", "size",
    "terminal", "tree",
)  # fmt: skip

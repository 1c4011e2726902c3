"""The microvm backend: containers in a virtual machine of their own, under their own kernel."""

#: What the server of the warm start imports (`pysandbox.warm.preload`): for commands, and for the sandbox process.
PRELOADED = (
    "accelerator", "agent", "arguments", "backend", "barrier", "block", "child", "console", "container", "creation",
    "execution", "features", "heartbeat", "host", "identity", "image", "inputs", "interface", "jail", "machine",
    "memory", "mirror", "netlink", "netns", "network", "place", "planning", "provision", "proxy", "qmp", "sandbox",
    "server", "service", "settings", "size", "stdio", "tap", "task", "template", "terminal", "tree", "virtiofsd",
)  # fmt: skip

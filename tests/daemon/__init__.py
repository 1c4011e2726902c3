"""docker, podman and containerd, started for the tests on private sockets and directories.

Nothing here touches a daemon of the system. The engines differ only in how they are started: a test gets one
`Engine` or `Containerd`, runs containers in it, and the engine removes whatever the test left.
"""

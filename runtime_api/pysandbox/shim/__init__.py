"""The shim: what containerd starts and talks to for every container or pod."""

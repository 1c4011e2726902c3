"""ttrpc: containerd's protocol for calls over a stream socket. Knows nothing of containers.

`server` and `client` are the two ends, `connection` what they share, `message` the codec of what they say, `service`
what generated code offers them, `errors` how calls fail. docs/ttrpc.md tells how to use it.
"""

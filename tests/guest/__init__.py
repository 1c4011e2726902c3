"""A Debian machine under QEMU, for what this project's test host cannot have: cgroup v2 in full, systemd, AppArmor.

`python -m tests.guest` builds the machine's disk once (cached by content outside the tree), boots it with the checkout
on a second disk, runs there the tests that need it, and ends with their exit code. `make soak` calls it.
"""

"""Pods by the Container Runtime Interface: containerd's plug-in for it, and a network that needs no bridge."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from daemon import image
from daemon.api import Service

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.containerd import Containerd
    from daemon.release import Release

#: Where the plug-in has its containers.
NAMESPACE = "k8s.io"
PAUSE = "localhost/pause:local"
#: Of the block for documentation (RFC 5737); on the loopback interface of each pod.
ADDRESS = "192.0.2.7"
#: A CNI plug-in (containernetworking's SPEC.md, 0.4.0) that gives a pod one address on `lo`.
_PLUGIN = f"""#!/bin/sh
cat >/dev/null
case $CNI_COMMAND in
VERSION) echo '{{"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0"]}}' ;;
ADD)
    nsenter --net="$CNI_NETNS" ip link set lo up
    nsenter --net="$CNI_NETNS" ip address replace {ADDRESS}/32 dev lo
    echo '{{"cniVersion": "0.4.0", "interfaces": [{{"name": "'$CNI_IFNAME'", "sandbox": "'$CNI_NETNS'"}}],
           "ips": [{{"version": "4", "address": "{ADDRESS}/32", "interface": 0}}]}}' ;;
esac
"""
_NETWORK = {"cniVersion": "0.4.0", "name": "alone", "plugins": [{"type": "alone"}]}
_SETTINGS_1 = """\
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni}/bin"
conf_dir = "{cni}/conf"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "pysandbox"
{runtimes}
"""
_SETTINGS_2 = """\
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{cni}/bin"]
conf_dir = "{cni}/conf"
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "pysandbox"
{runtimes}
"""
_RUNTIME = """\
[plugins."{plugin}".containerd.runtimes.{name}]
runtime_type = "io.containerd.pysandbox.v2"
[plugins."{plugin}".containerd.runtimes.{name}.options]
{options}
"""


def settings(release: Release, directory: Path, handlers: dict[str, str]) -> str:
    """Return containerd's settings for pods: runtime handlers by name, with the lines of their options."""
    for name in ("alone", "loopback"):
        program = directory / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(_PLUGIN)
        program.chmod(0o755)
    (directory / "conf").mkdir()
    (directory / "conf/10-alone.conflist").write_text(json.dumps(_NETWORK))
    later = release.version >= (2,)
    plugin = "io.containerd.cri.v1.runtime" if later else "io.containerd.grpc.v1.cri"
    runtimes = [_RUNTIME.format(plugin=plugin, name=name, options=options) for name, options in handlers.items()]
    template = _SETTINGS_2 if later else _SETTINGS_1
    return template.format(pause=PAUSE, cni=directory, runtimes="".join(runtimes))


class Pods:
    """A client of one containerd's CRI. What it makes it removes."""

    def __init__(self, containerd: Containerd, logs: Path) -> None:
        import grpc

        self.containerd, self.logs = containerd, logs
        self._channel = grpc.insecure_channel(f"unix:{containerd.address}")
        self.runtime = Service(self._channel, "cri", "RuntimeService")
        self.images = Service(self._channel, "cri", "ImageService")
        self._pods: dict[str, dict[str, Any]] = {}

    def ready(self) -> bool:
        """Say whether containerd takes requests for pods: it does some time after it answers ctr."""
        import grpc

        try:
            return all(condition.status for condition in self.runtime.Status().status.conditions)
        except grpc.RpcError:
            return False

    def run(self, *, handler: str = "", network: str = "POD", pid: str = "CONTAINER", **namespaces: Any) -> str:
        """Run a pod; return its id. `namespaces` are more fields of NamespaceOption."""
        name = f"pod-{uuid.uuid4().hex[:8]}"
        config = {
            "metadata": {"name": name, "uid": name, "namespace": "default"},
            "hostname": "" if network == "NODE" else "pod",  # as the kubelet has it
            "log_directory": str(self.logs),
            "linux": {
                "cgroup_parent": f"/{self.containerd.cgroup}",
                "security_context": {"namespace_options": {"network": network, "pid": pid, **namespaces}},
            },
        }
        pod = str(self.runtime.RunPodSandbox(config=config, runtime_handler=handler).pod_sandbox_id)
        self._pods[pod] = config
        return pod

    def create(self, pod: str, name: str, *command: str, attempt: int = 0, **more: Any) -> str:
        """Make a container of a pod, with its namespaces; its log is `NAME.log`."""
        sandbox = self._pods[pod]
        config = {
            "metadata": {"name": name, "attempt": attempt},
            "image": {"image": image.NAME},
            "command": list(command),
            "log_path": f"{name}.log",
            "linux": {
                "resources": {"memory_limit_in_bytes": 64 << 20, "cpu_shares": 512},
                "security_context": sandbox["linux"]["security_context"],
            },
            **more,
        }
        made = self.runtime.CreateContainer(pod_sandbox_id=pod, config=config, sandbox_config=sandbox)
        return str(made.container_id)

    def start(self, pod: str, name: str, *command: str, **more: Any) -> str:
        """Make a container of a pod and start it."""
        container = self.create(pod, name, *command, **more)
        self.runtime.StartContainer(container_id=container)
        return container

    def exec(self, container: str, *command: str) -> tuple[int, bytes, bytes]:
        """Run one more process in a container; return exit code, output and errors."""
        done = self.runtime.ExecSync(container_id=container, cmd=command, timeout=10)
        return done.exit_code, done.stdout, done.stderr

    def state(self, container: str) -> str:
        """Return created, running, exited or unknown."""
        status = self.runtime.ContainerStatus(container_id=container).status
        return ("created", "running", "exited", "unknown")[status.state]

    def log(self, name: str) -> list[str]:
        """Return the lines of a container's log without their times: `stdout F text`."""
        return [line.partition(" ")[2] for line in (self.logs / f"{name}.log").read_text().splitlines()]

    def remove(self, pod: str) -> None:
        """Stop and remove a pod with all that is in it."""
        self.runtime.StopPodSandbox(pod_sandbox_id=pod)
        self.runtime.RemovePodSandbox(pod_sandbox_id=pod)
        self._pods.pop(pod)

    def remove_all(self) -> None:
        """Remove what is left."""
        for pod in list(self._pods):
            self.remove(pod)
        self._channel.close()

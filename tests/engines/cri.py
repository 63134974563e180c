#!/usr/bin/python3
"""What a kubelet asks of an engine for a RuntimeClass, asked of containerd: tests/engines/run starts it.

    cri.py SOCKET HANDLER PODRUN ROOT DIRECTORY     the handler's runtime is PODRUN with ROOT

cri_pb2 is cri.proto, compiled. Every check prints one line; the exit code is 1 if one of them failed.
"""

import hashlib
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import time
import urllib.parse

import cri_pb2 as cri
import grpc

MIB = 1 << 20
# Requests and answers that have no message of their own in cri.proto.
SHARED = {
    "RunPodSandboxResponse": "PodSandboxId",
    "StopPodSandboxRequest": "PodSandboxId",
    "StopPodSandboxResponse": "Empty",
    "RemovePodSandboxRequest": "PodSandboxId",
    "RemovePodSandboxResponse": "Empty",
    "ListPodSandboxRequest": "Empty",
    "CreateContainerResponse": "ContainerId",
    "StartContainerRequest": "ContainerId",
    "StartContainerResponse": "Empty",
    "StopContainerResponse": "Empty",
    "RemoveContainerRequest": "ContainerId",
    "RemoveContainerResponse": "Empty",
    "ListContainersRequest": "Empty",
    "UpdateContainerResourcesResponse": "Empty",
    "ExecResponse": "StreamUrl",
    "AttachResponse": "StreamUrl",
    "ContainerStatsRequest": "ContainerId",
    "StatusRequest": "Empty",
}

address, handler, podrun, root, work = sys.argv[1:]
channel = grpc.insecure_channel("unix:" + address, options=[("grpc.enable_http_proxy", 0)])
failed = False


def call(method, **fields):
    """One call, with its message's fields, and what is answered."""

    def message(name):
        return getattr(cri, SHARED.get(name, name))

    service = "ImageService" if "Image" in method else "RuntimeService"
    ask = channel.unary_unary(
        f"/runtime.v1.{service}/{method}",
        request_serializer=message(method + "Request").SerializeToString,
        response_deserializer=message(method + "Response").FromString,
    )
    # Only the first one is asked before the engine listens.
    return ask(message(method + "Request")(**fields), timeout=60, wait_for_ready=method == "Version")


def check(name, wanted, act, *args, **fields):
    """Says whether ACT's result is WANTED: a value, or a pattern for all of its text."""
    global failed
    try:
        got = act(*args, **fields)
    except grpc.RpcError as error:
        got = f"{error.code().name}: {error.details()}"
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        got = repr(error)
    if isinstance(wanted, re.Pattern):
        same = wanted.fullmatch(str(got))
        wanted = wanted.pattern
    else:
        same = got == wanted
    if same:
        print(f"ok: cri {name}", flush=True)
    else:
        failed = True
        print(f"FAILED: cri {name}: {got!r} for {wanted!r}", file=sys.stderr, flush=True)
    return got


def like(pattern):
    """What a check wants where not every word of it is known."""
    return re.compile(pattern, re.DOTALL)


def until(wanted, look, *args):
    """What LOOK sees, once that is WANTED, or after a while."""
    end = time.monotonic() + 30
    while (seen := look(*args)) != wanted and time.monotonic() < end:
        time.sleep(0.1)
    return seen


# Images.


def archive(path, layer, images):
    """An archive of images that share a layer: names, and the configuration of each."""
    with tarfile.open(path, "w") as tar:

        def add(name, content):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        add("layer.tar", layer)
        manifest = []
        for name, config in images.items():
            content = json.dumps({
                "architecture": "amd64",
                "os": "linux",
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
            }).encode()
            file = hashlib.sha256(content).hexdigest() + ".json"
            add(file, content)
            manifest.append({"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]})
        add("manifest.json", json.dumps(manifest).encode())


def import_images():
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(f"{work}/rootfs", arcname=".")
    archive(f"{work}/images.tar", layer.getvalue(), {
        "localhost/busybox:latest": {"Cmd": ["sh"], "Env": ["PATH=/bin", "IMAGE=said"]},
        "localhost/pause:latest": {"Entrypoint": ["/bin/sleep"], "Cmd": ["1000000"]},
    })
    subprocess.run(
        ["ctr", "-a", address, "-n", "k8s.io", "images", "import", "--snapshotter", "native", f"{work}/images.tar"],
        check=True, capture_output=True, timeout=60)


def image(name):
    """An image's ID, once the engine has it."""
    until(True, lambda: call("ImageStatus", image={"image": name}).HasField("image"))
    return call("ImageStatus", image={"image": name}).image.id


# Streams: WebSockets whose messages begin with the number of a channel.

STDIN, STDOUT, STDERR, END, SIZE = range(5)


def streamed(url, *messages):
    """What comes on a stream's standard output, and how it ended, after each (channel, bytes) was sent."""
    url = urllib.parse.urlsplit(url)
    came = {}
    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        connection.sendall((f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: Upgrade\r\n"
                            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
                            "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n").encode())
        with connection.makefile("rb") as stream:
            status = stream.readline().decode()
            if " 101 " not in status:
                return status
            while stream.readline().strip():
                pass
            for number, data in messages:
                # A client's are masked; with zeros that changes nothing.
                connection.sendall(struct.pack("!BBI", 0x82, 0x80 | len(data) + 1, 0) + bytes([number]) + data)
            while len(head := stream.read(2)) == 2 and head[0] & 15 != 8:
                length = head[1]
                if length > 125:
                    length = int.from_bytes(stream.read(2 if length == 126 else 8), "big")
                data = stream.read(length)
                came[data[0]] = came.get(data[0], b"") + data[1:]
    end = json.loads(came.get(END) or "{}")
    codes = [cause["message"] for cause in end.get("details", {}).get("causes", [])]
    return " ".join(came.get(STDOUT, b"").decode().split()), end.get("status"), codes


def exec_on_a_terminal(container):
    url = call("Exec", container_id=container, tty=True, stdin=True, stdout=True, cmd=[
        "sh", "-c", "stty -echo; until [ \"$(stty size 2>&1)\" = '33 99' ]; do sleep 0.05; done;"
        "read a; tty; echo $a; exit 7"]).url
    return streamed(url, (SIZE, b'{"Width": 99, "Height": 33}'), (STDIN, b"typed\n"))


def attached(container):
    url = call("Attach", container_id=container, stdin=True, stdout=True, stderr=True).url
    return streamed(url, (STDIN, b"typed\n"))[0]


# Pods and containers.


def pod(name, network, pid, ipc=cri.POD, **linux):
    context = {"namespace_options": {"network": network, "pid": pid, "ipc": ipc},
               "seccomp": {"profile_type": cri.SecurityProfile.RuntimeDefault}}
    context.update(linux.pop("security_context", {}))
    return cri.PodSandboxConfig(
        metadata={"name": name, "uid": name + "-uid", "namespace": "default"},
        # The node's pods have its name.
        hostname="" if network == cri.NODE else name,
        log_directory=f"{work}/cri/logs/{name}",
        labels={"app": name},
        linux=cri.LinuxPodSandboxConfig(cgroup_parent=f"/{os.path.basename(work)}/{name}", security_context=context,
                                        **linux))


def create(sandbox, config, name, script, attempt=0, context=None, **fields):
    """A container that runs a script, or what is given as its command."""
    context = dict(context or {})
    context.setdefault("namespace_options", config.linux.security_context.namespace_options)
    fields.setdefault("command", ["sh"])
    if script:
        fields["args"] = ["-c", script]
    fields["linux"] = {"resources": fields.pop("resources", {}), "security_context": context}
    return call("CreateContainer", pod_sandbox_id=sandbox, sandbox_config=config, config=dict(
        metadata={"name": name, "attempt": attempt}, image={"image": busybox}, log_path=f"{name}-{attempt}.log",
        **fields)).container_id


def started(*args, **fields):
    container = create(*args, **fields)
    call("StartContainer", container_id=container)
    return container


def status(container):
    return call("ContainerStatus", container_id=container).status


def state(container):
    return cri.ContainerState.Name(status(container).state)


def ended(container):
    """A container's exit code and the reason for it, once it has ended."""
    until("CONTAINER_EXITED", state, container)
    return f"{state(container)} {status(container).exit_code} {status(container).reason}"


def ran(*args, **fields):
    """What a container's end was, that is then removed."""
    container = started(*args, **fields)
    end = ended(container)
    call("RemoveContainer", container_id=container)
    return end


def pid(container):
    """The process of a container as the engine tells it."""
    return json.loads(call("ContainerStatus", container_id=container, verbose=True).info["info"])["pid"]


def pause_pid(sandbox):
    return json.loads(call("PodSandboxStatus", pod_sandbox_id=sandbox, verbose=True).info["info"])["pid"]


def executed(container, *command, timeout=0):
    answer = call("ExecSync", container_id=container, cmd=command, timeout=timeout)
    return answer.stdout.decode().strip(), answer.stderr.decode().strip(), answer.exit_code


def asked(container, script):
    return executed(container, "sh", "-c", script)[0]


def logged(name):
    """What a container wrote, without the times, in the form that the kubelet reads."""
    with open(f"{work}/cri/logs/{name}") as log:
        return [line.split(" ", 1)[1].rstrip("\n") for line in log]


def gone(method, **fields):
    """How the engine says that there is no such thing."""
    try:
        return call(method, **fields)
    except grpc.RpcError as error:
        return error.code().name


# What podrun and the kernel say.


def said(*command):
    return subprocess.run([podrun, "--root", root, *command], check=True, capture_output=True, text=True,
                          timeout=60).stdout


def podruns(container):
    told = json.loads(said("state", container))
    return f"{told['status']} {told['pid']}"


def held(process):
    """Memory, CPU shares and CPU time that a process's cgroup may have: as cgroup v1 or v2 has them."""
    with open(f"/proc/{process}/cgroup") as file:
        paths = {names: path for _, names, path in (line.rstrip("\n").split(":", 2) for line in file)}
    seen = []
    for controller, v1, v2 in (("memory", "memory.limit_in_bytes", "memory.max"),
                               ("cpu", "cpu.shares", "cpu.weight"),
                               ("cpu", "cpu.cfs_quota_us", "cpu.max")):
        directory = f"/sys/fs/cgroup/{controller}{paths.get(controller, '')}/{v1}"
        if controller not in paths:
            directory = f"/sys/fs/cgroup{paths['']}/{v2}"
        with open(directory) as file:
            seen.append(file.read().split()[0])
    return " ".join(seen)


def shares(number):
    """CPU shares, or the weight that runtimes make of them."""
    return f"({number}|{1 + (number - 2) * 9999 // 262142})"


def namespace(kind, process):
    return os.readlink(f"/proc/{process}/ns/{kind}")


def same_namespaces(one, other):
    return " ".join(kind for kind in ("ipc", "mnt", "net", "pid", "uts")
                    if namespace(kind, one) == namespace(kind, other))


LOOP = "trap 'exit 3' TERM; while :; do sleep 0.05; done"


def pod_on_the_network_of_the_node():
    config = pod("node", cri.NODE, cri.CONTAINER)
    check("RunPodSandbox: an unknown handler", like(f".*{handler}-unknown.*"), call, "RunPodSandbox", config=config,
          runtime_handler=handler + "-unknown")
    sandbox = call("RunPodSandbox", config=config, runtime_handler=handler).pod_sandbox_id
    told = call("PodSandboxStatus", pod_sandbox_id=sandbox).status
    check("RunPodSandbox: it is ready, with its handler", (cri.SANDBOX_READY, handler),
          lambda: (told.state, told.runtime_handler))
    check("RunPodSandbox: it is podrun's", f"running {pause_pid(sandbox)}", podruns, sandbox)
    check("RunPodSandbox: on the network of the node, with a PID namespace", "net uts", same_namespaces, "self",
          pause_pid(sandbox))
    check("ListPodSandbox", [(sandbox, cri.SANDBOX_READY)],
          lambda: [(item.id, item.state) for item in call("ListPodSandbox").items])
    all_fields(sandbox, config)
    resources_and_ends(sandbox, config)
    check("StopPodSandbox", cri.Empty(), call, "StopPodSandbox", pod_sandbox_id=sandbox)
    check("StopPodSandbox: once more", cri.Empty(), call, "StopPodSandbox", pod_sandbox_id=sandbox)
    check("StopPodSandbox: it is not ready", cri.SANDBOX_NOTREADY,
          lambda: call("PodSandboxStatus", pod_sandbox_id=sandbox).status.state)
    check("RemovePodSandbox", cri.Empty(), call, "RemovePodSandbox", pod_sandbox_id=sandbox)
    check("RemovePodSandbox: it is gone", "NOT_FOUND", gone, "PodSandboxStatus", pod_sandbox_id=sandbox)


def all_fields(sandbox, config):
    """A container with all that a pod's manifest may say, and what is asked of it while it runs."""
    os.makedirs(f"{work}/cri/data", exist_ok=True)
    os.chown(f"{work}/cri/data", 33, 50)
    container = create(
        sandbox, config, "full", "echo out; echo err >&2; " + LOOP,
        working_dir="/tmp", envs=[{"key": "A", "value": "b"}],
        mounts=[{"container_path": "/mnt", "host_path": f"{work}/volume", "readonly": True},
                {"container_path": "/data", "host_path": f"{work}/cri/data"}],
        devices=[{"container_path": "/dev/mine", "host_path": "/dev/null", "permissions": "rwm"}],
        resources={"memory_limit_in_bytes": 64 * MIB, "cpu_shares": 512, "cpu_quota": 50000, "cpu_period": 100000,
                   "oom_score_adj": 500},
        context={"run_as_user": {"value": 33}, "run_as_group": {"value": 50}, "supplemental_groups": [60],
                 "capabilities": {"drop_capabilities": ["ALL"], "add_capabilities": ["NET_BIND_SERVICE"]},
                 "readonly_rootfs": True, "no_new_privs": True,
                 "seccomp": {"profile_type": cri.SecurityProfile.RuntimeDefault},
                 "masked_paths": ["/proc/kcore", "/proc/version"], "readonly_paths": ["/proc/sys"]})
    check("CreateContainer", "CONTAINER_CREATED", state, container)
    check("StartContainer", cri.Empty(), call, "StartContainer", container_id=container)
    check("ContainerStatus", "CONTAINER_RUNNING", state, container)
    check("ContainerStatus: the process is podrun's", f"running {pid(container)}", podruns, container)
    check("ListContainers", [(container, cri.CONTAINER_RUNNING)],
          lambda: [(item.id, item.state) for item in call("ListContainers").containers])
    check("podrun list", sorted([sandbox, container]), lambda: sorted(said("list", "-q").split()))
    check("ExecSync", ("joined", "", 0), executed, container, "echo", "joined")
    check("ExecSync: its exit code and standard error", ("", "why", 7), executed, container, "sh", "-c",
          "echo why >&2; exit 7")
    check("ExecSync: not found", like(".*no-such-thing.*"), executed, container, "no-such-thing")
    check("ExecSync: too long", like("DEADLINE_EXCEEDED: .*"), executed, container, "sleep", "777", timeout=1)
    check("ExecSync: too long: it is killed", "", until, "", asked, container, "ps | grep '[s]leep 777'")
    check("Exec: on a terminal, with its size and exit code", ("/dev/pts/0 typed", "Failure", ["7"]),
          exec_on_a_terminal, container)
    check("user, groups, directory, environment", "33 50 50 60 /tmp b said", asked, container,
          "echo $(id -u) $(id -g) $(sed -n 's/^Groups:.//p' /proc/self/status) $PWD $A $IMAGE")
    check("capabilities", "0000000000000400", asked, container, "sed -n 's/^CapBnd:.//p' /proc/self/status")
    check("no_new_privs and seccomp", "1 2", asked, container,
          "echo $(sed -n 's/^NoNewPrivs:.//p;s/^Seccomp:.//p' /proc/self/status)")
    check("seccomp: what the engine's filter refuses", like(".*Operation not permitted.*"),
          lambda: executed(container, "unshare", "-U", "true")[1])
    check("a read-only root", "refused", asked, container, "touch /x 2>/dev/null || echo refused")
    check("masked and read-only paths", "0 read-only", asked, container,
          "echo $(wc -c </proc/version) $(grep -q '^[^ ]* /proc/sys [^ ]* ro,' /proc/mounts && echo read-only)")
    check("volumes", "seen refused written", asked, container,
          "echo $(cat /mnt/file) $(touch /mnt/x 2>/dev/null || echo refused) $(echo written >/data/x; cat /data/x)")
    check("a device", "1:3 ok", asked, container, "echo $(stat -c %t:%T /dev/mine) $(echo x >/dev/mine && echo ok)")
    check("oom_score_adj", "500", asked, container, "cat /proc/1/oom_score_adj")
    check("its log", ["stderr F err", "stdout F out"], until, ["stderr F err", "stdout F out"],
          lambda: sorted(logged("node/full-0.log")))
    check("resources: what the kernel holds", like(f"67108864 {shares(512)} 50000"), held, pid(container))
    check("UpdateContainerResources", cri.Empty(), call, "UpdateContainerResources", container_id=container,
          linux={"memory_limit_in_bytes": 128 * MIB, "cpu_shares": 1024, "cpu_quota": 25000, "cpu_period": 100000})
    check("UpdateContainerResources: what the kernel holds", like(f"134217728 {shares(1024)} 25000"), held,
          pid(container))
    check("ContainerStats", True, used, container)
    target = {"namespace_options": {"network": cri.NODE, "pid": cri.TARGET, "ipc": cri.POD, "target_id": container}}
    check("a container that looks into another", "CONTAINER_EXITED 0 Completed", ran, sandbox, config, "debugger",
          "grep -q trap /proc/1/cmdline", context=target)
    check("StopContainer", cri.Empty(), call, "StopContainer", container_id=container, timeout=20)
    check("StopContainer: its exit code", "CONTAINER_EXITED 3 Error", ended, container)
    check("ExecSync: of a container that has ended", like(".*not running.*|.*is in CONTAINER_EXITED state.*"), executed,
          container, "true")
    check("RemoveContainer", cri.Empty(), call, "RemoveContainer", container_id=container)
    check("RemoveContainer: once more", cri.Empty(), call, "RemoveContainer", container_id=container)
    check("RemoveContainer: it is gone", "NOT_FOUND", gone, "ContainerStatus", container_id=container)


def used(container):
    stats = call("ContainerStats", container_id=container).stats
    return stats.cpu.usage_core_nano_seconds.value > 0 and 0 < stats.memory.working_set_bytes.value < 128 * MIB


def resources_and_ends(sandbox, config):
    check("an exit code", "CONTAINER_EXITED 5 Error", ran, sandbox, config, "once", "exit 5")
    check("an exit code: the next attempt", "CONTAINER_EXITED 0 Completed", ran, sandbox, config, "once", "exit 0",
          attempt=1)
    container = started(sandbox, config, "large", None, command=["tail", "/dev/zero"],
                        resources={"memory_limit_in_bytes": 16 * MIB})
    # The reason may be told after the end.
    killed = "CONTAINER_EXITED 137 OOMKilled"
    check("too much memory", killed, until, killed, ended, container)
    check("RemoveContainer: what was killed", cri.Empty(), call, "RemoveContainer", container_id=container)
    container = create(sandbox, config, "missing", None, command=["no-such-thing"])
    check("StartContainer: not found", like(".*no-such-thing.*"), call, "StartContainer", container_id=container)
    check("StartContainer: not found: its status", "CONTAINER_EXITED 128 StartError", ended, container)
    check("RemoveContainer: what was not started", cri.Empty(), call, "RemoveContainer", container_id=container)
    check("a terminal", "CONTAINER_EXITED 0 Completed", ran, sandbox, config, "terminal", "tty", tty=True)
    check("a terminal: its log", ["stdout F /dev/pts/0"],
          lambda: [line.rstrip("\r") for line in logged("node/terminal-0.log")])
    container = started(sandbox, config, "listens", "read a; echo got $a", stdin=True)
    check("Attach", "got typed", attached, container)
    check("Attach: the end", "CONTAINER_EXITED 0 Completed", ended, container)
    check("RemoveContainer: what was attached to", cri.Empty(), call, "RemoveContainer", container_id=container)
    container = started(sandbox, config, "deaf", "trap '' TERM; while :; do sleep 0.05; done")
    check("StopContainer: what does not listen", cri.Empty(), call, "StopContainer", container_id=container, timeout=1)
    check("StopContainer: what does not listen: its exit code", "CONTAINER_EXITED 137 Error", ended, container)
    check("RemoveContainer: what did not listen", cri.Empty(), call, "RemoveContainer", container_id=container)
    container = started(sandbox, config, "running", "exec sleep 1000")
    check("RemoveContainer: while it runs", cri.Empty(), call, "RemoveContainer", container_id=container)
    # The end of the pod ends it.
    started(sandbox, config, "left", "exec sleep 1000")


def pod_with_a_network_of_its_own():
    """A pod whose containers share the PID namespace, and a network that has a path."""
    config = pod("own", cri.POD, cri.POD,
                 sysctls={"kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "80"})
    sandbox = call("RunPodSandbox", config=config, runtime_handler=handler).pod_sandbox_id
    check("a pod's network: its address", "192.0.2.7",
          lambda: call("PodSandboxStatus", pod_sandbox_id=sandbox).status.network.ip)
    one = started(sandbox, config, "one", "echo shared >/dev/shm/file; exec sleep 1234",
                  context={"run_as_username": "user"})
    two = started(sandbox, config, "two", LOOP)
    check("two containers share the pod's namespaces", ("ipc net pid uts", "ipc net pid uts"),
          lambda: (same_namespaces(pid(one), pid(two)), same_namespaces(pid(one), pause_pid(sandbox))))
    check("two containers share processes and memory", "sleep 1234 shared", until, "sleep 1234 shared", asked, two,
          "echo $(ps -o args | grep '[s]leep 1234') $(cat /dev/shm/file)")
    check("two containers share the network and the name of the pod", "lo own", asked, two,
          "echo $(ls /sys/class/net) $(hostname)")
    check("run_as_username", "1000", lambda: str(os.stat(f"/proc/{pid(one)}").st_uid))
    check("sysctls", "1 80", asked, one,
          "echo $(cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start)")
    # Its processes do not end with it by themselves.
    check("an exit code, with a process that stays behind", "CONTAINER_EXITED 5 Error", ran, sandbox, config,
          "behind", "sleep 888 & exit 5")
    check("an exit code: no process stays behind", "", asked, two, "ps | grep '[s]leep 888'")
    check("StopPodSandbox: with containers that run", cri.Empty(), call, "StopPodSandbox", pod_sandbox_id=sandbox)
    check("StopPodSandbox: their ends", ("CONTAINER_EXITED 137 Error", "CONTAINER_EXITED 137 Error"),
          lambda: (ended(one), ended(two)))
    check("RemovePodSandbox: with containers", cri.Empty(), call, "RemovePodSandbox", pod_sandbox_id=sandbox)
    check("RemovePodSandbox: they are gone", [], lambda: list(call("ListContainers").containers))


def privileged_pod():
    """One that takes part in the node, as what manages the node does."""
    config = pod("system", cri.NODE, cri.NODE, ipc=cri.NODE, security_context={"privileged": True})
    sandbox = call("RunPodSandbox", config=config, runtime_handler=handler).pod_sandbox_id
    check("a pod in the namespaces of the node", "ipc net pid uts", same_namespaces, "self", pause_pid(sandbox))
    container = started(sandbox, config, "system", "sleep 999 & echo $!; exec sleep 999",
                        context={"privileged": True})
    check("a privileged container", ("done", "", 0), executed, container, "sh", "-c",
          f"mount -t tmpfs none /mnt && readlink /proc/{os.getpid()}/ns/mnt >/dev/null && echo done")
    other = int(logged("system/system-0.log")[0].split()[-1])
    check("a privileged container: StopContainer", cri.Empty(), call, "StopContainer", container_id=container,
          timeout=20)
    # TERM ends what has no PID namespace of its own.
    check("a privileged container: its exit code", "CONTAINER_EXITED 143 Error", ended, container)
    check("a privileged container: no process stays behind", False, os.path.exists, f"/proc/{other}")
    check("StopPodSandbox: in the namespaces of the node", cri.Empty(), call, "StopPodSandbox",
          pod_sandbox_id=sandbox)
    check("RemovePodSandbox: in the namespaces of the node", cri.Empty(), call, "RemovePodSandbox",
          pod_sandbox_id=sandbox)


def remove_pods():
    for item in call("ListPodSandbox").items:
        call("StopPodSandbox", pod_sandbox_id=item.id)
        call("RemovePodSandbox", pod_sandbox_id=item.id)


# So that whoever ends this leaves no pods either.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
check("Version", "containerd v1", lambda: "{0.runtime_name} {0.runtime_api_version}".format(call("Version")))
check("Status", {"RuntimeReady": True, "NetworkReady": True}, until, {"RuntimeReady": True, "NetworkReady": True},
      lambda: {condition.type: condition.status for condition in call("Status").status.conditions})
check("ctr images import", None, import_images)
busybox = check("ImageStatus", like("sha256:.*"), image, "localhost/busybox:latest")
check("ImageStatus: the pods' own", like("sha256:.*"), image, "localhost/pause:latest")
try:
    try:
        pod_on_the_network_of_the_node()
        pod_with_a_network_of_its_own()
        privileged_pod()
    finally:
        remove_pods()
except grpc.RpcError as error:
    failed = True
    print(f"FAILED: cri: {error.code().name}: {error.details()}", file=sys.stderr, flush=True)
check("nothing is left", "", said, "list", "-q")
sys.exit(failed)

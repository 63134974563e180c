//! Network devices that move into a container (`linux.netDevices`), looked at from inside.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::bundle::{Engine, bundle, config, inside, push_namespace, refused};
use crate::harness::{Podrun, busybox};

/// What is looked at: one device's own line, its addresses, and the names of all.
const LOOK: &str = "ip addr show dev eth7; echo /sys/class/net/*";

/// Two devices that are each other's end, of names that no other scenario and no other run has.
struct Veth {
    name: String,
    peer: String,
}

impl Veth {
    #[track_caller]
    fn new() -> Self {
        Self::called("pr")
    }

    /// Names that begin so.
    #[track_caller]
    fn called(prefix: &str) -> Self {
        let number = fastrand::u32(..);
        let veth = Self { name: format!("{prefix}{number:08x}a"), peer: format!("{prefix}{number:08x}b") };
        ip(&["link", "add", &veth.name, "type", "veth", "peer", "name", &veth.peer]);
        veth
    }

    #[track_caller]
    fn with_addresses() -> Self {
        Self::new().addressed()
    }

    /// Up, with an address of each family for good, and with two that are not to be kept.
    #[track_caller]
    fn addressed(self) -> Self {
        let name = &self.name;
        ip(&["link", "set", name, "up", "mtu", "1400"]);
        ip(&["link", "set", &self.peer, "up"]);
        ip(&["addr", "add", "192.0.2.7/32", "dev", name]);
        if has_ipv6() {
            ip(&["addr", "add", "2001:db8::7/128", "dev", name, "nodad", "noprefixroute"]);
        }
        ip(&["addr", "add", "192.0.2.8/32", "dev", name, "scope", "link"]);
        ip(&["addr", "add", "192.0.2.9/32", "dev", name, "valid_lft", "1000", "preferred_lft", "1000"]);
        self
    }

    /// What the host tells of it; none where it is not there.
    fn here(&self) -> Option<String> {
        let output = Command::new("ip").args(["addr", "show", "dev", &self.name]).output().expect("run ip");
        output.status.success().then(|| String::from_utf8(output.stdout).expect("UTF-8"))
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // Either end takes the other along, wherever that is; it may have gone with a container.
        for name in [&self.peer, &self.name] {
            let _ = Command::new("ip").args(["link", "delete", name]).output();
        }
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("run ip");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Asks for `devices`, and for a network namespace where they can go.
fn ask(config: &mut Value, devices: Value) {
    push_namespace(config, json!({"type": "network"}));
    config["linux"]["netDevices"] = devices;
}

/// The kernel of the guest that `tests/guest/run` boots has none.
fn has_ipv6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

/// It has what was given to it for good: `told` is what `ip addr` tells of it.
#[track_caller]
fn is_complete(told: &str) {
    let ipv6 = has_ipv6().then_some("inet6 2001:db8::7/128");
    for part in ["UP", "mtu 1400", "inet 192.0.2.7/32"].into_iter().chain(ipv6) {
        assert!(told.contains(part), "{part}: {told}");
    }
}

/// It has that and nothing else.
#[track_caller]
fn is_complete_inside(told: &str) {
    is_complete(told);
    for part in ["192.0.2.8", "192.0.2.9"] {
        assert!(!told.contains(part), "{part}: {told}");
    }
}

/// The device is the host's, as it was.
#[track_caller]
fn is_complete_here(veth: &Veth) {
    is_complete(&veth.here().expect("it is there"));
}

#[test]
fn a_device_is_there_under_its_new_name_with_its_addresses_and_up() {
    let (podrun, veth) = (Podrun::new(), Veth::with_addresses());
    let told = inside(&podrun, &busybox(), LOOK, |config| ask(config, json!({&veth.name: {"name": "eth7"}})));
    is_complete_inside(&told);
    assert!(told.ends_with("\n/sys/class/net/eth7 /sys/class/net/lo\n"), "{told}");
    assert_eq!(veth.here(), None);
}

#[test]
fn a_device_that_is_given_no_name_keeps_its_own() {
    let (podrun, veth) = (Podrun::new(), Veth::new());
    let names = |device: Value| {
        inside(&podrun, &busybox(), "echo /sys/class/net/*", |config| {
            ask(config, json!({&veth.name: device}));
        })
    };
    assert_eq!(names(json!({})), format!("/sys/class/net/lo /sys/class/net/{}\n", veth.name));
}

#[test]
fn a_template_gives_each_device_the_next_number() {
    let (podrun, first, second) = (Podrun::new(), Veth::new(), Veth::new());
    let told = inside(&podrun, &busybox(), "echo /sys/class/net/*", |config| {
        ask(config, json!({&first.name: {"name": "eth%d"}, &second.name: {"name": "eth%d"}}));
    });
    assert_eq!(told, "/sys/class/net/eth0 /sys/class/net/eth1 /sys/class/net/lo\n");
}

#[test]
fn a_device_moves_into_a_user_namespace_and_into_a_network_by_path() {
    let (podrun, veth) = (Podrun::new(), Veth::with_addresses());
    let mut owner = config(&busybox(), &["sleep", "1000"]);
    ask(&mut owner, json!({&veth.name: {"name": "eth7"}}));
    owner["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
    for ids in ["uidMappings", "gidMappings"] {
        owner["linux"][ids] = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    }
    let engine = Engine::create(&podrun, "owner", &owner);
    podrun.cmd(["start", "owner"]).run().expect(0);
    is_complete_inside(&podrun.cmd(["exec", "owner", "ip", "addr", "show", "dev", "eth7"]).ok());
    let second = Veth::new();
    let told = inside(&podrun, &busybox(), "ip link show dev eth8", |config| {
        ask(config, json!({&second.name: {"name": "eth8"}}));
        let path = format!("/proc/{}/ns/net", engine.pid);
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|one| one["type"] != "network");
        namespaces.push(json!({"type": "network", "path": path}));
    });
    assert!(told.contains("eth8") && told.contains("UP"), "{told}");
    podrun.cmd(["delete", "--force", "owner"]).run().expect(0);
    engine.wait();
}

#[test]
fn with_a_shim_it_is_there_too_and_a_second_start_says_that_it_is_gone() {
    let (podrun, veth) = (Podrun::new(), Veth::with_addresses());
    let mut config = config(&busybox(), &["sleep", "1000"]);
    ask(&mut config, json!({&veth.name: {"name": "eth7"}}));
    bundle(&podrun.dir().join("bundle"), &config);
    podrun.cmd(["create", "--bundle", "bundle", "--supervise", "b"]).prints("b\n");
    podrun.cmd(["start", "b"]).prints("b\n");
    is_complete_inside(&podrun.cmd(["exec", "b", "ip", "addr", "show", "dev", "eth7"]).ok());
    podrun.cmd(["kill", "b"]).exits(0);
    podrun.cmd(["wait", "b"]).prints("143\n");
    let gone = format!("find the network device {}: no such device", veth.name);
    podrun.cmd(["start", "b"]).fails(1, &gone);
    let second = Veth::with_addresses();
    config["linux"]["netDevices"] = json!({&second.name: {"name": "eth7"}});
    config["process"]["args"] = json!(["ip", "addr", "show", "dev", "eth7"]);
    bundle(&podrun.dir().join("bundle"), &config);
    is_complete_inside(&podrun.cmd(["run", "--rm", "--bundle", "bundle", "c"]).ok());
}

#[test]
fn a_process_that_joins_takes_no_device_along() {
    let (podrun, veth, later) = (Podrun::new(), Veth::new(), Veth::new());
    let mut config = config(&busybox(), &["sleep", "1000"]);
    ask(&mut config, json!({&veth.name: {"name": "eth7"}}));
    let engine = Engine::create(&podrun, "o", &config);
    podrun.cmd(["start", "o"]).run().expect(0);
    ip(&["link", "set", &later.name, "name", &veth.name]);
    let look = ["exec", "o", "sh", "-c", "echo /sys/class/net/*"];
    podrun.cmd(look).prints("/sys/class/net/eth7 /sys/class/net/lo\n");
    assert!(veth.here().is_some(), "the one that came later is still the host's");
    podrun.cmd(["delete", "--force", "o"]).run().expect(0);
    engine.wait();
}

#[test]
fn hooks_and_settings_find_the_device() {
    let (podrun, veth) = (Podrun::new(), Veth::new());
    let log = podrun.dir().join("log");
    let script = format!(
        "nsenter --net=/proc/$(grep -o '\"pid\":[0-9]*' | cut -d: -f2)/ns/net ip link show dev eth7 >{} 2>&1",
        log.display()
    );
    let told = inside(&podrun, &busybox(), "cat /proc/sys/net/ipv4/conf/eth7/proxy_arp", |config| {
        ask(config, json!({&veth.name: {"name": "eth7"}}));
        config["hooks"] = json!({"prestart": [{"path": "/bin/sh", "args": ["sh", "-c", script],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]});
        config["linux"]["sysctl"] = json!({"net.ipv4.conf.eth7.proxy_arp": "1"});
    });
    assert_eq!(told, "1\n");
    let hook = std::fs::read_to_string(&log).expect("the hook ran");
    assert!(hook.contains("eth7") && hook.contains("UP"), "{hook}");
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let (podrun, veth) = (Podrun::new(), Veth::with_addresses());
    refused(&podrun, "find the network device nosuch: no such device", |config| {
        ask(config, json!({&veth.name: {"name": "eth7"}, "nosuch": {}}));
    });
    is_complete_here(&veth);
}

#[test]
fn a_name_that_is_taken_inside_is_an_error() {
    let (podrun, veth) = (Podrun::new(), Veth::with_addresses());
    let what = format!("name the network device {} lo in the container: file exists", veth.name);
    refused(&podrun, &what, |config| ask(config, json!({&veth.name: {"name": "lo"}})));
    is_complete_here(&veth);
}

#[test]
fn a_device_that_cannot_move_is_an_error_and_those_before_it_are_back() {
    let (podrun, veth) = (Podrun::new(), Veth::with_addresses());
    // In the order of their names: lo comes first, and last.
    for veth in [veth, Veth::called("ar").addressed()] {
        refused(&podrun, "move the network device lo into the container: invalid argument", |config| {
            ask(config, json!({"lo": {"name": "eth8"}, &veth.name: {"name": "eth7"}}));
        });
        is_complete_here(&veth);
    }
}

#[test]
fn a_container_that_is_not_created_gives_the_device_back() {
    let (podrun, veth) = (Podrun::new(), Veth::with_addresses());
    let device = json!({&veth.name: {"name": "eth7"}});
    refused(&podrun, "hooks.createRuntime /bin/false", |config| {
        ask(config, device.clone());
        config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    });
    is_complete_here(&veth);
    refused(&podrun, "/no/such/command", |config| {
        ask(config, device.clone());
        config["process"]["args"] = json!(["/no/such/command"]);
    });
    is_complete_here(&veth);
    // Who owns the network namespace may do nothing to the host's devices.
    refused(&podrun, "/no/such/command", |config| {
        ask(config, device.clone());
        config["process"]["args"] = json!(["/no/such/command"]);
        push_namespace(config, json!({"type": "user"}));
        for ids in ["uidMappings", "gidMappings"] {
            config["linux"][ids] = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        }
    });
    is_complete_here(&veth);
    // And what can be known to fail does so before anything moves.
    let mut config = config(&busybox(), &["true"]);
    ask(&mut config, device);
    bundle(&podrun.dir().join("bundle"), &config);
    for how in [&["run", "-d"][..], &["create"], &["create", "--supervise"]] {
        let args = how.iter().copied().chain(["--bundle", "bundle", "--pid-file", "no/such/pid", "c"]);
        let output = podrun.cmd(args).run();
        output.is_a_failure(if how[0] == "run" { 125 } else { 1 }, "write no/such/pid");
        is_complete_here(&veth);
    }
}

#[test]
fn a_name_that_no_device_can_have_is_refused() {
    let podrun = Podrun::new();
    for name in ["1234567890123456", ".", "..", "a/b", "a:1", "a b", "a%", "a%d%d"] {
        refused(&podrun, "config linux.netDevices eth9: the name", |config| {
            ask(config, json!({"eth9": {"name": name}}));
        });
    }
    refused(&podrun, "config linux.netDevices a/b: the name", |config| ask(config, json!({"a/b": {}})));
    refused(&podrun, "config linux.netDevices b: another device", |config| {
        ask(config, json!({"a": {"name": "c"}, "b": {"name": "c"}}));
    });
}

#[test]
fn without_a_network_of_its_own_a_container_gets_no_device() {
    let (podrun, veth) = (Podrun::new(), Veth::new());
    let device = json!({&veth.name: {"name": "eth7"}});
    refused(
        &podrun,
        &format!("config linux.netDevices {}: needs a network namespace", veth.name),
        |config| {
            config["linux"]["netDevices"] = device.clone();
        },
    );
    refused(&podrun, "is the one that the devices are in", |config| {
        config["linux"]["netDevices"] = device.clone();
        push_namespace(config, json!({"type": "network", "path": "/proc/self/ns/net"}));
    });
    assert!(veth.here().is_some());
}

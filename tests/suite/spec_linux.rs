//! The examples of the runtime specification's Linux part, each run for real.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::bundle::{Engine, config, inside, push_mount, push_namespace, refused};
use crate::harness::{Podrun, busybox, debian};
use crate::spec_mounts::image_of;

fn link(pid: &str, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace").display().to_string()
}

/// Those of the example, without the time namespace: older runtimes know none.
const KINDS: [(&str, &str); 7] = [
    ("pid", "pid"),
    ("network", "net"),
    ("mount", "mnt"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("user", "user"),
    ("cgroup", "cgroup"),
];

/// The maps of the example, for a root that belongs to the first mapped user.
fn map_users(config: &mut Value) {
    // Whose network it is may show `/sys`.
    for kind in ["user", "network"] {
        push_namespace(config, json!({"type": kind}));
    }
    for ids in ["uidMappings", "gidMappings"] {
        config["linux"][ids] = json!([{"containerID": 0, "hostID": 1000, "size": 32000}]);
    }
}

#[test]
fn namespaces_are_new_unless_they_are_left_out() {
    let podrun = Podrun::new();
    let script = "for n in pid net mnt ipc uts user cgroup; do readlink /proc/self/ns/$n; done";
    let with = |kinds: &[(&str, &str)]| {
        let told = inside(&podrun, &busybox(), script, |config| {
            config["hostname"] = Value::Null;
            config["linux"]["namespaces"] = kinds.iter().map(|(kind, _)| json!({"type": kind})).collect();
        });
        told.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let own: Vec<_> = KINDS.iter().map(|(_, file)| link("self", file)).collect();
    let all: Vec<_> = KINDS.into_iter().filter(|(kind, _)| *kind != "user").collect();
    for (one, own) in with(&all).iter().zip(&own) {
        assert_eq!(one == own, own.starts_with("user:"), "{one}");
    }
    let few = with(&[("pid", "pid"), ("mount", "mnt")]);
    for ((kind, _), (one, own)) in KINDS.iter().zip(few.iter().zip(&own)) {
        assert_eq!(one != own, ["pid", "mount"].contains(kind), "{kind}");
    }
}

#[test]
fn the_example_joins_a_pid_and_a_network_namespace() {
    let podrun = Podrun::new();
    let mut first = config(&busybox(), &["sleep", "1000"]);
    push_namespace(&mut first, json!({"type": "network"}));
    let engine = Engine::create(&podrun, "first", &first);
    podrun.cmd(["start", "first"]).run().expect(0);
    let pid = engine.pid.to_string();
    let script = "readlink /proc/self/ns/pid; readlink /proc/self/ns/net; [ $$ != 1 ] && cat /proc/1/comm";
    let told = inside(&podrun, &busybox(), script, |config| {
        config["linux"]["namespaces"] = json!([
            {"type": "pid", "path": format!("/proc/{pid}/ns/pid")},
            {"type": "network", "path": format!("/proc/{pid}/ns/net")},
            {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"},
        ]);
    });
    assert_eq!(told, format!("{}\n{}\nsleep\n", link(&pid, "pid"), link(&pid, "net")));
    podrun.cmd(["delete", "--force", "first"]).run().expect(0);
    engine.wait();
}

#[test]
fn a_path_that_is_not_of_its_type_is_refused() {
    let podrun = Podrun::new();
    for path in ["/proc/self/ns/ipc", "/etc/passwd"] {
        refused(&podrun, path, |config| push_namespace(config, json!({"type": "network", "path": path})));
    }
}

#[test]
fn a_namespace_that_is_there_twice_is_refused() {
    let podrun = Podrun::new();
    refused(&podrun, "config linux.namespaces[5]", |config| push_namespace(config, json!({"type": "ipc"})));
}

#[test]
fn the_examples_users_are_mapped() {
    let podrun = Podrun::new();
    let image = podrun.dir().join("image");
    image_of(&image, 1000);
    let script = "id -u; tr -s ' ' </proc/self/uid_map; tr -s ' ' </proc/self/gid_map; stat -c %u:%g /bin; \
                  readlink /proc/self/ns/user; : >/etc/new";
    let told = inside(&podrun, image.to_str().expect("UTF-8"), script, map_users);
    let lines: Vec<_> = told.lines().map(str::trim).collect();
    assert_eq!(lines[..4], ["0", "0 1000 32000", "0 1000 32000", "0:0"]);
    assert_ne!(lines[4], link("self", "user"));
    assert_eq!(image.join("etc/new").metadata().unwrap().uid(), 1000);
}

/// Nobody could join it from inside the new one, whose root has no rights over it.
#[test]
fn users_are_mapped_in_a_pid_namespace_that_is_joined() {
    let podrun = Podrun::new();
    let first = Engine::create(&podrun, "first", &config(&busybox(), &["sleep", "1000"]));
    podrun.cmd(["start", "first"]).run().expect(0);
    let pid = first.pid.to_string();
    let image = podrun.dir().join("image");
    image_of(&image, 1000);
    let mut second = config(image.to_str().expect("UTF-8"), &["sleep", "1001"]);
    map_users(&mut second);
    let namespaces = second["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "pid");
    push_namespace(&mut second, json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}));
    let engine = Engine::create(&podrun, "o", &second);
    podrun.cmd(["start", "o"]).run().expect(0);
    let init = engine.pid.to_string();
    assert_eq!(link(&init, "pid"), link(&pid, "pid"));
    let script = "readlink /proc/self/ns/pid; readlink /proc/self/ns/user; tr -s ' ' </proc/self/uid_map; \
                  tr -s ' ' </proc/self/gid_map; id -u; stat -c %u /bin; : >/etc/new; \
                  tr '\\0' ' ' </proc/1/cmdline";
    let told = podrun.cmd(["exec", "o", "--", "sh", "-c", script]).ok();
    let lines: Vec<_> = told.lines().map(str::trim).collect();
    let maps = "0 1000 32000";
    assert_eq!(lines, [&link(&pid, "pid"), &link(&init, "user"), maps, maps, "0", "0", "sleep 1000"]);
    assert_ne!(link(&init, "user"), link(&pid, "user"));
    assert_eq!(image.join("etc/new").metadata().expect("what it made").uid(), 1000);
    // It is no init there: its end is its own.
    podrun.cmd(["delete", "--force", "o"]).run().expect(0);
    engine.wait();
    assert_eq!(podrun.status("first"), "running");
    podrun.cmd(["delete", "--force", "first"]).run().expect(0);
    first.wait();
}

#[test]
fn the_examples_clocks_are_set_off() {
    let podrun = Podrun::new();
    let told = inside(&podrun, &busybox(), "cat /proc/self/timens_offsets", |config| {
        push_namespace(config, json!({"type": "time"}));
        config["linux"]["timeOffsets"] = json!({
            "monotonic": {"secs": 172_800, "nanosecs": 0}, "boottime": {"secs": 604_800, "nanosecs": 0},
        });
    });
    let words: Vec<_> = told.split_whitespace().collect();
    assert_eq!(words, ["monotonic", "172800", "0", "boottime", "604800", "0"]);
}

/// The character and the block device of the example, and the other two kinds there are.
#[test]
fn the_examples_devices_are_there() {
    let podrun = Podrun::new();
    let script = "stat -c '%F %t:%T %a %u:%g' /dev/fuse /dev/sda /dev/unbuffered; stat -c '%F %a' /dev/pipe";
    let told = inside(&podrun, &busybox(), script, |config| {
        config["linux"]["devices"] = json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0},
            {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0, "fileMode": 432, "uid": 0, "gid": 0},
            {"path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 5, "fileMode": 0o600, "uid": 7, "gid": 8},
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o640},
        ]);
    });
    assert_eq!(
        told,
        "character special file a:e5 666 0:0\nblock special file 8:0 660 0:0\n\
         character special file 1:5 600 7:8\nfifo 640\n"
    );
}

#[test]
fn a_file_that_is_there_and_is_another_one_is_refused() {
    let podrun = Podrun::new();
    refused(&podrun, "/etc/passwd", |config| {
        config["linux"]["devices"] = json!([{"path": "/etc/passwd", "type": "c", "major": 1, "minor": 3}]);
    });
    assert!(Path::new(&busybox()).join("etc/passwd").metadata().unwrap().file_type().is_file());
}

#[test]
fn every_default_device_is_there_without_being_asked_for() {
    let podrun = Podrun::new();
    let script = "stat -c '%n %t:%T' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty; \
                  stat -Lc %t:%T /dev/ptmx; [ -e /dev/console ] || echo no console";
    let told = inside(&podrun, &busybox(), script, |_| {});
    assert_eq!(
        told,
        "/dev/null 1:3\n/dev/zero 1:5\n/dev/full 1:7\n/dev/random 1:8\n/dev/urandom 1:9\n/dev/tty 5:0\n5:2\nno console\n"
    );
}

/// What can be opened is what is allowed; nobody is at the other end of the block device, and FUSE is.
#[test]
fn the_examples_rules_say_which_devices_can_be_opened() {
    let podrun = Podrun::new();
    let script = "mknod /dev/fuse c 10 229; mknod /dev/sda b 8 0; mknod /dev/sdb b 8 16; \
                  for f in fuse sda sdb null; do head -c 0 /dev/$f; done 2>&1; \
                  (: >/dev/sda) 2>&1; :";
    let told = inside(&podrun, &busybox(), script, |config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_MKNOD"));
        }
        config["linux"]["resources"] = json!({"devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
            {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "rm"},
        ]});
    });
    let forbidden =
        |name: &str| told.lines().any(|line| line.contains(name) && line.contains("not permitted"));
    assert!(!forbidden("fuse") && !forbidden("null"), "{told}");
    assert!(forbidden("sdb"), "{told}");
    // Reading it is allowed, writing it is not.
    assert_eq!(
        told.lines().filter(|line| line.contains("sda") && line.contains("not permitted")).count(),
        1,
        "{told}"
    );
}

#[test]
fn the_examples_settings_of_the_kernel_are_made() {
    let podrun = Podrun::new();
    let script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/core/somaxconn";
    let told = inside(&podrun, &busybox(), script, |config| {
        push_namespace(config, json!({"type": "network"}));
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "net.core.somaxconn": "256"});
    });
    assert_eq!(told, "1\n256\n");
}

#[test]
fn the_examples_filter_refuses_what_it_names() {
    let podrun = Podrun::new();
    let script = "chmod 700 /dev/shm 2>&1; mkdir /dev/d && echo made; grep Seccomp: /proc/self/status";
    let told = inside(&podrun, &busybox(), script, |config| {
        // The shell asks where it is, unless it is told.
        config["process"]["env"].as_array_mut().unwrap().push(json!("PWD=/"));
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{"names": ["getcwd", "chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO"}],
        });
    });
    assert!(
        told.contains("Operation not permitted") && told.contains("made") && told.contains("Seccomp:\t2"),
        "{told}"
    );
}

#[test]
fn a_filter_has_an_errno_of_its_own_and_looks_at_arguments() {
    let podrun = Podrun::new();
    // kill(self, 0) is allowed, every other signal fails with ENODEV; mkdir by default with EXDEV.
    let script = "python3 -c 'import errno, os
def name(what, *args):
    try: what(*args)
    except OSError as error: return errno.errorcode[error.errno]
print(name(os.kill, os.getpid(), 0), name(os.kill, os.getpid(), 18), name(os.mkdir, \"/dev/d\"))'";
    let told = inside(&podrun, &debian(), script, |config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 19,
                 "args": [{"index": 1, "value": 0, "op": "SCMP_CMP_NE"}]},
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18},
            ],
        });
    });
    assert_eq!(told, "None ENODEV EXDEV\n");
}

#[test]
fn the_root_receives_what_is_mounted_on_the_host_or_not() {
    let podrun = Podrun::new();
    let look = "awk '$5 == \"/\" { for (i = 7; $i != \"-\"; i++) print $i }' /proc/self/mountinfo | cut -d: -f1 | xargs";
    for (word, expected) in [("private", "\n"), ("shared", "shared\n"), ("unbindable", "unbindable\n")] {
        let told =
            inside(&podrun, &busybox(), look, |config| config["linux"]["rootfsPropagation"] = json!(word));
        assert_eq!(told, expected, "{word}");
    }
    // Without a shared mount on the host, a slave is one of nobody.
    let told =
        inside(&podrun, &busybox(), look, |config| config["linux"]["rootfsPropagation"] = json!("slave"));
    assert!(!told.contains("shared"), "{told}");
}

#[test]
fn the_examples_places_are_masked_and_read_only() {
    let podrun = Podrun::new();
    let script = "stat -c %t:%T /proc/interrupts; head -c 1 /proc/interrupts | wc -c; head -c 1 /proc/kcore 2>/dev/null | wc -c; \
                  (echo 1 >/proc/sys/kernel/domainname) 2>&1 | grep -o Read-only; grep -c ' /proc/sys proc ro' /proc/mounts";
    let told = inside(&podrun, &busybox(), script, |config| {
        config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/latency_stats", "/proc/interrupts"]);
        config["linux"]["readonlyPaths"] = json!(["/proc/sys", "/proc/asound"]);
    });
    assert_eq!(told, "1:3\n0\n0\nRead-only\n1\n");
}

#[test]
fn a_personality_without_a_flag_is_taken() {
    let podrun = Podrun::new();
    for (domain, expected) in [("LINUX", "00000000\n"), ("LINUX32", "00000008\n")] {
        let told = inside(&podrun, &busybox(), "cat /proc/self/personality", |config| {
            config["linux"]["personality"] = json!({"domain": domain});
        });
        assert_eq!(told, expected);
    }
}

/// Without the file system there is an error; with it, podrun says that it does not do it.
#[test]
fn cache_and_bandwidth_are_refused_where_there_is_no_resctrl() {
    let podrun = Podrun::new();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    if mounts.contains(" resctrl ") && crate::harness::peer::peer().is_some() {
        return;
    }
    refused(&podrun, "linux.intelRdt", |config| {
        config["linux"]["intelRdt"] = json!({"closID": "guaranteed_group", "schemata": "L3:0=7f0;1=1f\nL2:0=f;1=f;2=f;3=f\nMB:0=20;1=70"});
    });
}

/// Only where the host has SELinux is there anything to label: `tests/guest/lsm`.
#[test]
fn a_label_for_mounts_is_refused_where_the_host_has_none() {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        return;
    }
    let podrun = Podrun::new();
    refused(&podrun, "SELinux label system_u:object_r", |config| {
        config["linux"]["mountLabel"] = json!("system_u:object_r:svirt_sandbox_file_t:s0:c715,c811");
    });
}

/// A container's cgroup is where the path says, below the hierarchy's mount; a relative one has a place of podrun's.
#[test]
fn a_cgroup_is_where_its_path_says() {
    let podrun = Podrun::new();
    let name = podrun.cgroup().file_name().unwrap().to_str().unwrap().to_owned();
    for path in [format!("/{name}/myContainer"), format!("{name}/relative")] {
        let mut config = config(&busybox(), &["sleep", "1000"]);
        config["linux"]["cgroupsPath"] = json!(path);
        let engine = Engine::create(&podrun, "o", &config);
        let cgroup = crate::harness::process::cgroup(engine.pid);
        let last = path.rsplit('/').next().unwrap();
        assert!(cgroup.ends_with(&format!("{name}/{last}")), "{path}: {cgroup}");
        podrun.cmd(["delete", "--force", "o"]).run().expect(0);
        engine.wait();
    }
}

/// The default file systems of the specification, and the cgroup mount of its long example.
#[test]
fn the_default_file_systems_and_the_cgroup_are_mounted() {
    let podrun = Podrun::new();
    let script = "grep -E '^[^ ]+ (/proc|/sys|/dev/pts|/dev/shm|/sys/fs/cgroup) ' /proc/mounts | cut -d' ' -f2,3 | sort; \
                  grep -c . /sys/fs/cgroup/cgroup.procs; (mkdir /sys/fs/cgroup/x) 2>&1 | grep -o Read-only";
    let told = inside(&podrun, &busybox(), script, |config| {
        push_mount(
            config,
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                   "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
        );
    });
    let mut lines = told.lines();
    let expected =
        ["/dev/pts devpts", "/dev/shm tmpfs", "/proc proc", "/sys sysfs", "/sys/fs/cgroup cgroup2"];
    assert_eq!(lines.by_ref().take(5).collect::<Vec<_>>(), expected);
    assert_eq!(lines.last(), Some("Read-only"), "{told}");
}

/// Whether the host's own node is a character device: the long example's `/dev/fuse` is bound where there are users.
pub(crate) fn has_fuse() -> bool {
    Path::new("/dev/fuse").metadata().is_ok_and(|file| file.file_type().is_char_device())
}

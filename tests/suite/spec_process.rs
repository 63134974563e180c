//! `process`, `hooks` and the whole of the runtime specification's examples.

use std::io::Read;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::harness::bundle::{
    CONSOLE, Engine, config, inside, inside_by, push_mount, push_namespace, refused,
};
use crate::harness::{Podrun, busybox, debian, executable};
use crate::spec_linux::has_fuse;
use crate::spec_mounts::image_of;
use crate::terminal::{printed, receive};

/// The process of the example, but for the labels of the kernel's security modules and for CPUs that few hosts have.
fn example(argv: Value) -> Value {
    let three = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "terminal": true,
        "consoleSize": {"height": 25, "width": 80},
        "user": {"uid": 1, "gid": 1, "umask": 63, "additionalGids": [5, 6]},
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "args": argv,
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4},
        "noNewPrivileges": true,
        "oomScoreAdj": 100,
        "capabilities": {
            "bounding": three, "permitted": three, "inheritable": three,
            "effective": ["CAP_AUDIT_WRITE", "CAP_KILL"], "ambient": ["CAP_NET_BIND_SERVICE"],
        },
        "rlimits": [
            {"type": "RLIMIT_CORE", "hard": 1024, "soft": 1024},
            {"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024},
        ],
    })
}

/// What a container with a terminal prints on it, and how it ends.
#[track_caller]
fn on_a_terminal(podrun: &Podrun, config: &Value) -> String {
    let dir = podrun.dir().join("bundle-o");
    std::fs::create_dir_all(&dir).expect("make the bundle");
    let listener = UnixListener::bind(dir.join(CONSOLE)).expect("listen for a terminal");
    let engine = Engine::create(podrun, "o", config);
    let mut master = std::fs::File::from(receive(&listener));
    podrun.cmd(["start", "o"]).run().expect(0);
    let mut text = Vec::new();
    // EIO is the end: nobody has the terminal open any more.
    let _ = master.read_to_end(&mut text);
    let output = engine.wait();
    podrun.cmd(["delete", "o"]).run().expect(0);
    let text = String::from_utf8_lossy(&text).into_owned();
    assert_eq!(output.code, Some(0), "{text} {output}");
    text
}

const LOOK: &str = "tty; stty size; id -u; id -g; id -G; umask; pwd; echo $TERM; ulimit -c; ulimit -Hn; \
                    cat /proc/self/oom_score_adj; grep -E '^(Cap|NoNew)' /proc/self/status";

/// 2 blocks of 512 bytes are RLIMIT_CORE's 1024 bytes; the ambient capability goes through `execve`, the effective ones
/// of a user who is not root do not.
const SEEN: &str = "/dev/pts/0\n25 80\n1\n1\n1 5 6\n0077\n/\nxterm\n2\n1024\n100\n\
    CapInh:\t0000000020000420\nCapPrm:\t0000000000000400\nCapEff:\t0000000000000400\n\
    CapBnd:\t0000000020000420\nCapAmb:\t0000000000000400\nNoNewPrivs:\t1\n";

#[test]
fn the_examples_process_is_as_asked() {
    let podrun = Podrun::new();
    let mut config = config(&busybox(), &[]);
    config["process"] = example(json!(["sh", "-c", LOOK]));
    // What asks for the I/O of nobody else's time is looked at below.
    config["process"].as_object_mut().unwrap().remove("ioPriority");
    assert_eq!(on_a_terminal(&podrun, &config), printed(SEEN));
}

/// It is of a later kernel, or of none: those that there are are given all the same.
#[test]
fn a_capability_that_there_is_none_of_is_a_warning() {
    let podrun = Podrun::new();
    let named = json!(["CAP_FUTURE", "CAP_KILL"]);
    let sets = json!({"bounding": named, "permitted": named, "effective": named});
    let look = "grep ^Cap /proc/self/status";
    let seen = "CapInh:\t0000000000000000\nCapPrm:\t0000000000000020\nCapEff:\t0000000000000020\n\
                CapBnd:\t0000000000000020\nCapAmb:\t0000000000000000\n";
    let log = podrun.dir().join("log.json");
    let creator = format!(r#"exec podrun --log {} --log-format json "$@""#, log.display());
    let told = inside_by(&podrun, &busybox(), look, &creator, |config| {
        config["process"]["capabilities"] = sets.clone();
    });
    assert_eq!(told, seen);
    let text = std::fs::read_to_string(&log).expect("a log");
    let object: Value =
        serde_json::from_str(text.lines().next().expect("a warning")).expect("one JSON object");
    assert_eq!(object["level"], "warning");
    assert!(object["msg"].as_str().expect("a message").contains("CAP_FUTURE"), "{object}");
    // Without a log it is on stderr, which is the container's, too.
    let mut config = config(&busybox(), &["sleep", "1000"]);
    config["process"]["capabilities"] = sets.clone();
    let engine = Engine::create(&podrun, "o", &config);
    podrun.cmd(["start", "o"]).run().expect(0);
    let process = json!({"args": ["sh", "-c", look], "cwd": "/", "env": ["PATH=/bin"], "capabilities": sets});
    let file = podrun.dir().join("process.json");
    std::fs::write(&file, process.to_string()).expect("write the process");
    let joined = podrun.cmd(["exec", "--process", file.to_str().expect("UTF-8"), "o"]).run();
    joined.expect(0);
    assert_eq!(joined.out(), seen);
    podrun.cmd(["delete", "--force", "o"]).run().expect(0);
    for said in [engine.wait().err(), joined.err()] {
        assert!(said.contains("warning") && said.contains("CAP_FUTURE"), "{said}");
    }
}

/// What podrun does not have itself it cannot give: the container goes without it, and somebody is told.
#[test]
fn a_capability_that_cannot_be_given_is_a_warning() {
    let podrun = Podrun::new();
    let named = json!(["CAP_KILL", "CAP_SYS_TIME"]);
    let sets = json!({"bounding": named, "permitted": named, "effective": named});
    let look = "grep ^CapEff /proc/self/status";
    let log = podrun.dir().join("log.json");
    let creator = format!(
        r#"exec setpriv --bounding-set -sys_time --inh-caps -sys_time podrun --log {} --log-format json "$@""#,
        log.display()
    );
    let told = inside_by(&podrun, &busybox(), look, &creator, |config| {
        config["process"]["capabilities"] = sets.clone();
    });
    assert_eq!(told, "CapEff:\t0000000000000020\n");
    let text = std::fs::read_to_string(&log).expect("a log");
    assert!(text.contains("\"warning\"") && text.contains("CAP_SYS_TIME itself"), "{text}");
}

#[test]
fn the_examples_process_has_its_share_of_io() {
    let podrun = Podrun::new();
    let told = inside(&podrun, &debian(), "ionice -p $$", |config| {
        config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 4});
    });
    assert!(told.contains("idle"), "{told}");
    let told = inside(&podrun, &debian(), "ionice -p $$", |config| {
        config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 7});
    });
    assert_eq!(told, "best-effort: prio 7\n");
}

#[test]
fn every_policy_of_the_scheduler_is_taken() {
    let podrun = Podrun::new();
    for (scheduler, expected) in [
        (json!({"policy": "SCHED_OTHER", "nice": 3}), "SCHED_OTHER\n"),
        (
            json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
            "SCHED_OTHER|SCHED_RESET_ON_FORK\n",
        ),
        (json!({"policy": "SCHED_BATCH"}), "SCHED_BATCH\n"),
        (json!({"policy": "SCHED_IDLE"}), "SCHED_IDLE\n"),
    ] {
        let mut config = config(&debian(), &["chrt", "-p", "1"]);
        config["process"]["scheduler"] = scheduler.clone();
        let engine = Engine::create(&podrun, "o", &config);
        podrun.cmd(["start", "o"]).run().expect(0);
        let told = engine.wait().out();
        podrun.cmd(["delete", "o"]).run().expect(0);
        assert!(told.contains(expected), "{scheduler}: {told}");
    }
}

/// Where the kernel deals out real time by cgroups of v1, a new one has none.
#[test]
fn a_policy_of_real_time_is_taken_where_there_is_any() {
    let podrun = Podrun::new();
    let cpu = crate::harness::leaks::v1_hierarchy("cpu");
    let is_dealt_out = cpu.is_some_and(|cpu| cpu.join("cpu.rt_runtime_us").exists());
    for (policy, priority) in [("SCHED_FIFO", 2), ("SCHED_RR", 3)] {
        let scheduler = json!({"policy": policy, "priority": priority});
        if is_dealt_out {
            refused(&podrun, "set config process.scheduler: operation not permitted", |config| {
                config["process"]["scheduler"] = scheduler;
                // In a cgroup that an engine asks for, as in every other scenario.
                let name = podrun.cgroup().file_name().unwrap().to_str().unwrap().to_owned();
                config["linux"]["cgroupsPath"] = json!(format!("/{name}/ctr-o"));
            });
            continue;
        }
        let told =
            inside(&podrun, &debian(), "chrt -p $$", |config| config["process"]["scheduler"] = scheduler);
        assert!(told.contains(policy), "{told}");
    }
}

#[test]
fn labels_are_refused_where_the_host_has_none() {
    let podrun = Podrun::new();
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    for (field, value, module) in [
        ("apparmorProfile", "acme_secure_profile", "AppArmor profile"),
        ("selinuxLabel", "system_u:system_r:svirt_lxc_net_t:s0:c124,c675", "SELinux label"),
    ] {
        let name = module.split(' ').next().unwrap().to_lowercase();
        if !modules.contains(&name) {
            refused(&podrun, &format!("{module} {value}"), |config| config["process"][field] = json!(value));
        }
    }
}

#[test]
fn a_console_size_without_a_terminal_is_ignored() {
    let podrun = Podrun::new();
    let told = inside(&podrun, &busybox(), "[ -t 1 ] || echo none", |config| {
        config["process"]["consoleSize"] = json!({"height": 25, "width": 80});
    });
    assert_eq!(told, "none\n");
}

#[test]
fn each_limit_of_a_process_is_set() {
    let podrun = Podrun::new();
    let kinds = [
        ("AS", "Max address space"),
        ("CORE", "Max core file size"),
        ("CPU", "Max cpu time"),
        ("DATA", "Max data size"),
        ("FSIZE", "Max file size"),
        ("LOCKS", "Max file locks"),
        ("MEMLOCK", "Max locked memory"),
        ("MSGQUEUE", "Max msgqueue size"),
        ("NICE", "Max nice priority"),
        ("NOFILE", "Max open files"),
        ("NPROC", "Max processes"),
        ("RSS", "Max resident set"),
        ("RTPRIO", "Max realtime priority"),
        ("RTTIME", "Max realtime timeout"),
        ("SIGPENDING", "Max pending signals"),
        ("STACK", "Max stack size"),
    ];
    // Each has a pair of its own: enough to run with, and no more than whoever is not mighty may ask for.
    let pair = |kind: &str, at: usize| match kind {
        "NICE" | "RTPRIO" => (0, 0),
        "NOFILE" | "NPROC" | "SIGPENDING" => (100 + at, 200 + at),
        "MEMLOCK" | "MSGQUEUE" => (700_000 + at, 800_000 + at),
        _ => (2_000_000_000 + at, 3_000_000_000 + at),
    };
    let told = inside(&podrun, &busybox(), "cat /proc/self/limits", |config| {
        let one = |(at, (kind, _)): (usize, &(&str, &str))| {
            let (soft, hard) = pair(kind, at);
            json!({"type": format!("RLIMIT_{kind}"), "soft": soft, "hard": hard})
        };
        config["process"]["rlimits"] = kinds.iter().enumerate().map(one).collect();
    });
    for (at, (kind, title)) in kinds.iter().enumerate() {
        let line = told.lines().find(|line| line.starts_with(title)).expect("a line for each limit");
        let words: Vec<_> = line[title.len()..].split_whitespace().collect();
        let (soft, hard) = pair(kind, at);
        assert_eq!(words[..2], [soft.to_string(), hard.to_string()], "{kind}");
    }
}

#[test]
fn a_limit_that_is_there_twice_is_refused() {
    let podrun = Podrun::new();
    refused(&podrun, "config process.rlimits[1]", |config| {
        let one = json!({"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100});
        config["process"]["rlimits"] = json!([one, one]);
    });
}

#[test]
fn names_of_the_host_are_the_containers_own() {
    let podrun = Podrun::new();
    let told = inside(&podrun, &busybox(), "hostname; cat /proc/sys/kernel/domainname", |config| {
        config["hostname"] = json!("mrsdalloway");
        config["domainname"] = json!("foobarbaz.test");
    });
    assert_eq!(told, "mrsdalloway\nfoobarbaz.test\n");
}

#[test]
fn annotations_are_in_the_state_and_unknown_fields_are_ignored() {
    let podrun = Podrun::new();
    let mut config = config(&busybox(), &["true"]);
    config["annotations"] = json!({"com.example.gpu-cores": "2", "com.example.empty": ""});
    config["no.such.field"] = json!({"a": [1]});
    config["linux"]["noSuchField"] = json!(true);
    config["process"]["noSuchField"] = json!("x");
    config["solaris"] = json!({"milestone": "svc:/milestone/container:default"});
    let engine = Engine::create(&podrun, "o", &config);
    let state = podrun.state("o");
    assert_eq!(state["annotations"]["com.example.gpu-cores"], "2", "{state}");
    podrun.cmd(["start", "o"]).run().expect(0);
    engine.wait().expect(0);
    podrun.cmd(["delete", "o"]).run().expect(0);
}

/// The hooks of the example: a program with arguments and an environment of its own, and one that has neither.
#[test]
fn the_examples_hooks_run_in_order_with_their_arguments_and_environment() {
    let podrun = Podrun::new();
    let (log, dir) = (podrun.dir().join("log"), podrun.dir().join("programs"));
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(&log, "").unwrap();
    let program = |name: &str| {
        let script =
            format!("#!/bin/sh\n/bin/cat >/dev/null\necho {name} $* ${{key1-none}} >>{}\n", log.display());
        executable(&dir.join(name), script);
        dir.join(name)
    };
    let fix = json!({"path": program("fix-mounts"), "args": ["fix-mounts", "arg1", "arg2"], "env": ["key1=value1"]});
    let network = json!({"path": program("setup-network")});
    let mut config = config(&busybox(), &["true"]);
    // The container has the programs at the same place.
    push_mount(
        &mut config,
        json!({"destination": "/mnt", "type": "bind", "source": podrun.dir(), "options": ["bind"]}),
    );
    executable(&dir.join("refresh-ldcache"), "#!/bin/sh\necho refresh-ldcache >>/mnt/log\n");
    config["hooks"] = json!({
        "prestart": [fix, network],
        "createRuntime": [fix, network],
        "createContainer": [{"path": program("mount-hook"), "args": ["-mount", "arg1", "arg2"], "env": ["key1=value1"]}],
        "startContainer": [{"path": "/mnt/programs/refresh-ldcache"}],
        "poststart": [{"path": program("notify-start"), "timeout": 5}],
        "poststop": [{"path": program("cleanup.sh"), "args": ["cleanup.sh", "-f"]}],
    });
    let engine = Engine::create(&podrun, "o", &config);
    podrun.cmd(["start", "o"]).run().expect(0);
    engine.wait().expect(0);
    podrun.cmd(["delete", "o"]).run().expect(0);
    let told = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<_> = told.lines().collect();
    let before = ["fix-mounts arg1 arg2 value1", "setup-network none"];
    assert_eq!(lines[..4], [before, before].concat());
    assert_eq!(
        lines[4..],
        ["mount-hook arg1 arg2 value1", "refresh-ldcache", "notify-start none", "cleanup.sh -f none"]
    );
}

/// The long example at the end of the specification, but for what this host lacks: the labels, the limits (they have
/// their own scenarios), and the disk `/dev/sda`, which a user namespace could only have from the host.
fn whole(podrun: &Podrun, argv: Value) -> Value {
    let image = podrun.dir().join("bundle-o/rootfs");
    std::fs::create_dir_all(podrun.dir().join("bundle-o")).expect("make the bundle");
    image_of(&image, 1000);
    let mut config = config("rootfs", &[]);
    config["ociVersion"] = json!("1.0.1");
    config["process"] = example(argv);
    config["root"]["readonly"] = json!(true);
    config["hostname"] = json!("slartibartfast");
    config["annotations"] = json!({"com.example.key1": "value1", "com.example.key2": "value2"});
    push_mount(
        &mut config,
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
               "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
    );
    for kind in ["network", "user"] {
        push_namespace(&mut config, json!({"type": kind}));
    }
    let linux = &mut config["linux"];
    if has_fuse() {
        linux["devices"] = json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0},
        ]);
    }
    for ids in ["uidMappings", "gidMappings"] {
        linux[ids] = json!([{"containerID": 0, "hostID": 1000, "size": 32000}]);
    }
    linux["sysctl"] = json!({"net.ipv4.ip_forward": "1", "net.core.somaxconn": "256"});
    linux["resources"] = json!({"devices": [
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "r"},
    ]});
    linux["rootfsPropagation"] = json!("slave");
    linux["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["getcwd", "chmod"], "action": "SCMP_ACT_ERRNO"}],
    });
    linux["maskedPaths"] =
        json!(["/proc/kcore", "/proc/latency_stats", "/proc/timer_stats", "/proc/interrupts"]);
    linux["readonlyPaths"] =
        json!(["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
    config
}

const WHOLE: &str = "id -u; id -G; hostname; cat /proc/sys/net/core/somaxconn; tr -s ' ' </proc/self/uid_map; \
    (: >/tmp/x) 2>&1 | grep -o Read-only; stat -c %t:%T /proc/interrupts; grep Seccomp: /proc/self/status; \
    grep -c ' /proc/sys proc ro' /proc/mounts; ls /sys/class/net | grep lo; ulimit -n; cat /proc/self/oom_score_adj";

#[test]
fn the_whole_example_runs() {
    let podrun = Podrun::new();
    let config = whole(&podrun, json!(["sh", "-c", WHOLE]));
    let expected =
        "1\n1 5 6\nslartibartfast\n256\n 0 1000 32000\nRead-only\n1:3\nSeccomp:\t2\n1\nlo\n1024\n100\n";
    assert_eq!(on_a_terminal(&podrun, &config), printed(expected));
}

#[test]
fn the_whole_example_runs_with_clocks_of_its_own() {
    let podrun = Podrun::new();
    let mut config = whole(&podrun, json!(["sh", "-c", "tr -s ' ' </proc/self/timens_offsets"]));
    push_namespace(&mut config, json!({"type": "time"}));
    config["linux"]["timeOffsets"] = json!({
        "monotonic": {"secs": 172_800, "nanosecs": 0}, "boottime": {"secs": 604_800, "nanosecs": 0},
    });
    assert_eq!(on_a_terminal(&podrun, &config), printed("monotonic 172800 0\nboottime 604800 0\n"));
}

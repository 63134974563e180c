//! `--userns`: root inside is nobody outside.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use serde_json::json;

use crate::harness::bundle::{Engine, config, refused};
use crate::harness::{Cmd, Podrun, busybox, debian, in_guest, overlay};

const MAP: &str = "map:0:100000:65536";

/// Whether the file system of the test roots can be idmapped: hostfs of the guest cannot.
pub(crate) fn can_idmap() -> bool {
    !in_guest()
}

/// `podrun run --rm --userns map:0:100000:65536 OPTIONS` of a busybox shell script.
fn run(podrun: &Podrun, rootfs: &str, options: &[&str], script: &str) -> Cmd {
    let args = ["run", "c", "--rm", "--userns", MAP, "--rootfs", rootfs].into_iter();
    podrun.cmd(args.chain(options.iter().copied()).chain(["--", "sh", "-c", script]))
}

#[test]
fn root_inside_is_nobody_outside() {
    if !can_idmap() {
        return;
    }
    let podrun = Podrun::new();
    let script = "id -u; awk '{print $1, $2, $3}' /proc/self/uid_map; readlink /proc/self/ns/user; \
                  stat -c '%u:%g' / /bin/busybox /home/user /proc/1 /dev /dev/pts /dev/shm; sleep 1000";
    let args = ["run", "c", "-d", "--userns", MAP, "--rootfs", &busybox()];
    podrun.cmd(args.into_iter().chain(["--", "sh", "-c", &format!("{script}; :")])).prints("c\n");
    let mut follow = podrun.cmd(["logs", "-f", "c"]).spawn();
    let lines: Vec<_> = (0..10).map(|_| follow.line().expect("a line")).collect();
    assert_eq!(lines[..2], ["0", "0 100000 65536"]);
    assert_ne!(lines[2], fs::read_link("/proc/self/ns/user").unwrap().display().to_string());
    assert_eq!(lines[3..], ["0:0", "0:0", "1000:1000", "0:0", "0:0", "0:0", "0:0"]);
    let pid = podrun.pid("c");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t100000\t100000\t100000\t100000"), "{status}");
    // Every namespace is the new user namespace's own: its root has rights over them, and over no other.
    podrun
        .cmd(["exec", "c", "--", "sh", "-c", "id -u; cat /proc/1/comm; ls /proc/1/fd | wc -l"])
        .prints("0\nsh\n3\n");
    let output =
        podrun.cmd(["exec", "--user", "1000", "c", "--", "sh", "-c", "echo x > /dev/stdout; id -u"]).run();
    assert_eq!((output.out().as_str(), output.code), ("x\n1000\n", Some(0)), "{output}");
    for (user, uid) in [("root", 0), ("user", 1000)] {
        let script = "tty; stat -c %u /dev/pts/0; id -u";
        podrun
            .cmd(["exec", "-t", "--user", user, "c", "--", "sh", "-c", script])
            .prints(&format!("/dev/pts/0\r\n{uid}\r\n{uid}\r\n"));
    }
}

#[test]
fn it_reaches_nothing_of_the_hosts() {
    if !can_idmap() {
        return;
    }
    let podrun = Podrun::new();
    let secret = podrun.dir().join("secret");
    fs::write(&secret, "s").unwrap();
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    // Without an idmap a volume has the owners it has: root of the host is nobody inside.
    let volume = format!("{}:/mnt/secret", secret.display());
    let script = "stat -c %u /mnt/secret; cat /mnt/secret 2>/dev/null || echo refused; \
                  chown 0 /mnt/secret 2>/dev/null || echo refused; mknod /tmp/null c 1 3 2>/dev/null || echo refused; \
                  echo x > /dev/null && head -c 2 /dev/zero | wc -c; (echo 1 > /proc/sys/kernel/sysrq) 2>/dev/null || echo refused";
    run(&podrun, &overlay(busybox()), &["-v", &volume], script)
        .prints("65534\nrefused\nrefused\nrefused\n2\nrefused\n");
}

#[test]
fn files_of_an_idmapped_volume_have_the_right_owner_on_both_sides() {
    if !can_idmap() {
        return;
    }
    let podrun = Podrun::new();
    let dir = podrun.dir().join("data");
    fs::create_dir(&dir).unwrap();
    for (name, owner) in [("root", 0), ("user", 1000)] {
        fs::write(dir.join(name), name).unwrap();
        chown(dir.join(name), Some(owner), Some(owner)).unwrap();
        fs::set_permissions(dir.join(name), PermissionsExt::from_mode(0o600)).unwrap();
    }
    let volume = format!("{}:/mnt:idmap", dir.display());
    let script = "cd /mnt; stat -c %u:%g root user; cat root; echo; : > new; chown 1000:1000 new; : > mine";
    run(&podrun, &busybox(), &["-v", &volume], script).prints("0:0\n1000:1000\nroot\n");
    let owner = |name: &str| dir.join(name).metadata().map(|file| (file.uid(), file.gid())).unwrap();
    assert_eq!((owner("new"), owner("mine")), ((1000, 1000), (0, 0)));
    // A map of its own needs no user namespace.
    let mount = format!("type=bind,src={},dst=/mnt,idmap=uids=0-33-1;gids=0-34-1", dir.display());
    let args = ["run", "c", "--rm", "--rootfs", &busybox(), "--mount", &mount, "--"];
    podrun.cmd(args.into_iter().chain(["stat", "-c", "%u:%g", "/mnt/root"])).prints("33:34\n");
}

/// Whoever has CAP_SYS_ADMIN in a user namespace may change the mounts of his mount namespace, but not take back
/// what they forbid; and none that he makes appears on the host.
#[test]
fn what_a_volume_forbids_no_capability_inside_allows() {
    if !can_idmap() {
        return;
    }
    let podrun = Podrun::new();
    let [data, shared] = ["data", "shared"].map(|name| podrun.dir().join(name));
    for dir in [&data, &shared] {
        fs::create_dir(dir).unwrap();
        fs::set_permissions(dir, PermissionsExt::from_mode(0o777)).unwrap();
    }
    let script = "mkdir /tmp/m; cd /tmp; \
        mount -o remount,bind,rw /mnt/ro 2>/dev/null && echo remounted; \
        mount -o remount,bind,suid,dev,exec /mnt/ro 2>/dev/null && echo allowed; \
        mount --bind /mnt/ro /tmp/m && mount -o remount,bind,rw /tmp/m 2>/dev/null && echo remounted again; \
        unshare -m sh -c 'mount -o remount,bind,rw /mnt/ro' 2>/dev/null && echo remounted elsewhere; \
        touch /mnt/ro/x /tmp/m/x 2>/dev/null && echo wrote; \
        mount -t tmpfs none /mnt/shared && touch /mnt/shared/x && echo mounted";
    let [ro, rw] = [
        format!("{}:/mnt/ro:ro,nosuid,nodev,noexec,idmap", data.display()),
        format!("{}:/mnt/shared:rshared", shared.display()),
    ];
    let rootfs = overlay(busybox());
    let options = ["-v", &ro, "-v", &rw, "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"];
    run(&podrun, &rootfs, &options, script).prints("mounted\n");
    run(&podrun, &rootfs, &["-v", &ro, "-v", &rw, "--privileged"], script).prints("mounted\n");
    for dir in [&data, &shared] {
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "{}", dir.display());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(shared.to_str().unwrap()), "a mount of the container's is on the host");
}

#[test]
fn namespaces_of_others_are_joined_from_it() {
    if !can_idmap() {
        return;
    }
    let podrun = Podrun::new();
    let args = ["run", "-d", "one", "--network", "none", "--rootfs", &busybox(), "--", "sleep", "100000"];
    podrun.cmd(args).prints("one\n");
    let pid = podrun.pid("one");
    let kinds = ["net", "ipc", "uts"];
    let paths = kinds.map(|kind| format!("ns:/proc/{pid}/ns/{kind}"));
    let flags = ["--network", "--ipc", "--uts"];
    let options: Vec<&str> =
        flags.iter().zip(&paths).flat_map(|(flag, path)| [*flag, path.as_str()]).collect();
    let of = |pid: &str| {
        let link = |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        kinds.map(|kind| format!("{}\n", link(kind).display())).concat()
    };
    let look = "for n in net ipc uts; do readlink /proc/self/ns/$n; done; cat /proc/self/uid_map | wc -l; \
                ls /sys/class/net";
    let expected = of(&pid.to_string()) + "1\nlo\n";
    run(&podrun, &busybox(), &options, look).prints(&expected);
    let args = ["run", "-d", "two", "--userns", MAP, "--rootfs", &busybox()];
    podrun.cmd(args.iter().chain(&options).chain(&["--", "sleep", "100000"])).prints("two\n");
    podrun.cmd(["exec", "two", "--", "sh", "-c", look]).prints(&expected);
    // Among processes of others it sees them, and the rest of the host no more than they do.
    let theirs = format!("ns:/proc/{pid}/ns/pid");
    let look = "readlink /proc/self/ns/pid; cat /proc/1/comm; id -u";
    let expected = format!("{}\nsleep\n0\n", fs::read_link(&theirs[3..]).unwrap().display());
    run(&podrun, &busybox(), &["--pid", &theirs], look).prints(&expected);
    let args = ["run", "-d", "three", "--userns", MAP, "--pid", &theirs, "--rootfs", &busybox()];
    podrun.cmd(args.iter().chain(&["--", "sleep", "100000"])).prints("three\n");
    podrun.cmd(["exec", "three", "--", "sh", "-c", look]).prints(&expected);
    podrun.cmd(["exec", "-t", "three", "--", "sh", "-c", "tty; id -u"]).prints("/dev/pts/0\r\n0\r\n");
    // A cgroup file system of theirs would show what is the host's.
    refused(&podrun, "joining the cgroup namespace", |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|one| one["type"] != "cgroup");
        namespaces.push(json!({"type": "cgroup", "path": format!("/proc/{pid}/ns/cgroup")}));
        namespaces.push(json!({"type": "user"}));
        for ids in ["uidMappings", "gidMappings"] {
            config["linux"][ids] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        }
    });
    // Another user namespace itself is none of what can be joined.
    let own = format!("ns:/proc/{}/ns/user", podrun.pid("two"));
    podrun
        .cmd(["run", "c", "--userns", &own, "--rootfs", &busybox(), "--", "true"])
        .fails(125, "none that podrun knows");
}

#[test]
fn the_rootfs_keeps_its_owners_and_an_overlay_what_was_written() {
    if !can_idmap() {
        return;
    }
    let podrun = Podrun::new();
    let script = "cat /kept 2>/dev/null; echo kept > /kept; stat -c %u:%g /kept /bin/busybox; \
                  chown user /kept; : > /home/user/x";
    let args = ["run", "c", "--userns", MAP, "--rootfs", &overlay(busybox()), "--", "sh", "-c", script];
    podrun.cmd(args).prints("0:0\n0:0\n");
    podrun.settle();
    podrun.cmd(["start", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("0\n");
    assert!(podrun.cmd(["logs", "c"]).run().out().ends_with("kept\n1000:0\n0:0\n"));
    assert_eq!(Path::new(&busybox()).join("bin/busybox").metadata().unwrap().uid(), 0);
    let upper = podrun.container_dir("c").join("upper/kept");
    assert_eq!(upper.metadata().unwrap().uid(), 101_000, "outside it is nobody's");
}

#[test]
fn a_debian_works_in_it_as_usual() {
    if !can_idmap() {
        return;
    }
    let podrun = Podrun::new();
    let script = "set -e; su nobody -s /bin/sh -c 'id -u'; touch /tmp/x; ls -l /tmp/x | cut -d' ' -f3; hostname; mount | grep -c ' / '; \
                  cat /sys/class/net/lo/mtu; python3 -c 'import os; print(os.getuid())'; ulimit -n";
    let args = ["run", "c", "--rm", "--userns", MAP, "--hostname", "h", "--rootfs", &overlay(debian())];
    let output = podrun.cmd(args.into_iter().chain(["--network", "none", "--", "bash", "-c", script])).run();
    assert!(output.out().starts_with("65534\nroot\nh\n1\n65536\n0\n"), "{output}");
    // The host's network comes with the host's view of it.
    let args = ["run", "c", "--rm", "--userns", MAP, "--user", "user", "--rootfs", &overlay(debian())];
    podrun
        .cmd(args.into_iter().chain([
            "--",
            "bash",
            "-c",
            "cat /sys/class/net/lo/mtu; id -un; echo > /dev/stdout",
        ]))
        .prints("65536\nuser\n\n");
}

#[test]
fn with_init_it_has_the_true_status_too() {
    if !can_idmap() {
        return;
    }
    let podrun = Podrun::new();
    run(&podrun, &busybox(), &["--init"], "exit 42").exits(42);
    run(&podrun, &busybox(), &["--user", "1000:1000"], "exit 43").exits(43);
    run(&podrun, "/:O", &[], "test -r /etc/passwd && stat -c %u /etc/passwd").prints("0\n");
}

#[test]
fn a_device_is_the_hosts_own_there() {
    if !can_idmap() {
        return;
    }
    let podrun = Podrun::new();
    let script = "stat -c '%F %t:%T' /dev/x/zero; head -c 3 /dev/x/zero | wc -c";
    let options = ["--device", "/dev/zero:/dev/x/zero"];
    run(&podrun, &busybox(), &options, script).prints("character special file 1:5\n3\n");
}

#[test]
fn auto_gives_every_container_ids_of_its_own() {
    if !can_idmap() {
        return;
    }
    let podrun = Podrun::new();
    let map = |id: &str| {
        let args =
            ["run", id, "-d", "--userns", "auto:size=1000", "--rootfs", &busybox(), "--", "sleep", "1000"];
        podrun.cmd(args).prints(&format!("{id}\n"));
        let map = fs::read_to_string(format!("/proc/{}/uid_map", podrun.pid(id))).unwrap();
        let numbers: Vec<u32> = map.split_whitespace().map(|number| number.parse().unwrap()).collect();
        assert_eq!((numbers[0], numbers[2]), (0, 1000), "{map}");
        numbers[1]
    };
    let (a, b, c) = (map("a"), map("b"), map("c"));
    assert!(a.abs_diff(b) >= 1000 && b.abs_diff(c) >= 1000 && a.abs_diff(c) >= 1000, "{a} {b} {c}");
    podrun.cmd(["delete", "-f", "b"]).prints("b\n");
    assert_eq!(map("d"), b, "what is deleted is free again");
    let args = ["inspect", "d"];
    assert!(podrun.cmd(args).ok().contains(&format!("\"hostID\": {b}")));
}

#[test]
fn as_engines_write_it_the_rootfs_is_the_engines_to_prepare() {
    let podrun = Podrun::new();
    let image = podrun.dir().join("image");
    for dir in ["bin", "proc", "sys", "dev"] {
        fs::create_dir_all(image.join(dir)).unwrap();
        chown(image.join(dir), Some(200_000), Some(200_000)).unwrap();
    }
    chown(&image, Some(200_000), Some(200_000)).unwrap();
    fs::copy(busybox() + "/bin/busybox", image.join("bin/busybox")).unwrap();
    let script = "/bin/busybox id -u; /bin/busybox stat -c %u /bin /bin/busybox";
    let mut config = config(image.to_str().unwrap(), &["/bin/busybox", "sh", "-c", script]);
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    for ids in ["uidMappings", "gidMappings"] {
        config["linux"][ids] = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
    }
    let engine = Engine::create(&podrun, "o", &config);
    assert_eq!(fs::metadata(format!("/proc/{}", engine.pid)).map(|dir| dir.uid()).unwrap_or(0) % 200_000, 0);
    podrun.cmd(["start", "o"]).exits(0);
    assert_eq!(engine.wait().out(), "0\n0\n65534\n");
    podrun.cmd(["delete", "o"]).run().expect(0);
}

#[test]
fn a_wrong_map_is_an_error_and_leaves_nothing() {
    let podrun = Podrun::new();
    for (map, why) in [
        ("nosuch", "none that podrun knows"),
        ("map:0:100000", "is not CONTAINER:HOST:SIZE"),
        ("map:0:100000:10,5:200000:10", "overlap on the container's side"),
        ("map:0:100000:10,10:100005:10", "overlap on the host's side"),
        ("map:0:100000:0", "is empty"),
        ("map:0:4294967295:2", "beyond the last ID"),
        ("map:1:100000:10", "does not map root"),
        ("auto:size=0", "size"),
    ] {
        let args = ["run", "c", "--userns", map, "--rootfs", &busybox(), "--", "true"];
        podrun.cmd(args).fails(125, why);
    }
    let args = ["run", "c", "--userns", "map:0:100000:10", "--user", "1000:1000", "--rootfs", &busybox()];
    podrun.cmd(args.into_iter().chain(["--", "true"])).fails(125, "1000");
    let volume = format!("{}:/mnt:idmap", podrun.dir().display());
    podrun
        .cmd(["run", "c", "--rootfs", &busybox(), "-v", &volume, "--", "true"])
        .fails(125, "needs a user namespace");
    let args = ["run", "c", "--userns", MAP, "--rootfs", &busybox(), "-v", "/proc:/mnt:idmap", "--", "true"];
    podrun.cmd(args).fails(125, "map the owners of /proc");
    podrun.cmd(["list", "-q"]).prints("");
}

#[test]
fn who_is_not_in_the_user_namespace_is_named() {
    let podrun = Podrun::new();
    let run = |options: &[&str]| {
        let args = [&["run", "c", "--rootfs", &overlay(busybox())], options, &["--", "sleep", "1000"]];
        podrun.cmd(args.concat())
    };
    let hint = |output: crate::harness::Output| assert!(output.err().contains("hint: --userns"), "{output}");
    hint(run(&["--userns", "auto", "-u", "70000"]).fails(125, "user 70000"));
    hint(run(&["--userns", "auto", "-u", "0:70000"]).fails(125, "ID 70000"));
    run(&["-d", "--userns", "auto:size=100"]).prints("c\n");
    let user = |user| podrun.cmd(["exec", "-u", user, "c", "true"]);
    hint(user("7:65534").fails(125, "group 65534: not in the container's user namespace"));
    hint(user("65534:7").fails(125, "65534"));
    user("7:7").exits(0);
}

//! What is mounted into a container: where from, where to, and with which limits.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;

use crate::harness::bundle::{Engine, config};
use crate::harness::{Cmd, Podrun, busybox, overlay};

/// `podrun run --rm OPTIONS` of a busybox shell script above an overlay.
fn run(podrun: &Podrun, options: &[&str], script: &str) -> Cmd {
    let rootfs = overlay(busybox());
    let args = ["run", "c", "--rm", "--rootfs", &rootfs].into_iter().chain(options.iter().copied());
    podrun.cmd(args.chain(["--", "sh", "-c", script]))
}

/// A directory on the host with a file in it.
fn source(podrun: &Podrun, name: &str) -> String {
    let dir = podrun.dir().join(name);
    fs::create_dir(&dir).expect("a source");
    fs::write(dir.join("file"), "of the host\n").expect("a source");
    dir.to_str().expect("a source").to_owned()
}

/// The mount's own options as `/proc/self/mountinfo` has them.
const OPTIONS: &str = "awk '$5 == \"/mnt\" { print $6 }' /proc/self/mountinfo";

#[test]
fn every_way_to_write_a_bind_mount_makes_the_same_one() {
    let podrun = Podrun::new();
    let host = source(&podrun, "a,b c");
    let script = format!("{OPTIONS}; cat /mnt/file; (: > /mnt/x) 2>/dev/null || echo refused");
    let mount = format!("type=bind,\"source={host}\",target=/mnt,readonly,nodev");
    for options in [["-v", &format!("{host}:/mnt:ro,nodev")], ["--mount", &mount]] {
        let output = run(&podrun, &options, &script).ok();
        let mut lines = output.lines();
        let flags: Vec<_> = lines.next().unwrap().split(',').collect();
        assert!(flags.contains(&"ro") && flags.contains(&"nodev"), "{output}");
        assert_eq!(lines.collect::<Vec<_>>(), ["of the host", "refused"]);
    }
}

#[test]
fn what_a_mount_forbids_is_forbidden() {
    let podrun = Podrun::new();
    let host = source(&podrun, "host");
    let busybox = Path::new(&host).join("busybox");
    fs::copy(crate::harness::busybox() + "/bin/busybox", &busybox).unwrap();
    fs::set_permissions(&busybox, PermissionsExt::from_mode(0o4755)).unwrap();
    let script = format!("/mnt/busybox true 2>/dev/null && echo ran; {OPTIONS}");
    for (word, runs) in [("noexec", false), ("nosuid", true), ("nodev", true), ("noatime", true)] {
        let output = run(&podrun, &["-v", &format!("{host}:/mnt:{word}")], &script).ok();
        assert_eq!(output.starts_with("ran\n"), runs, "{word}: {output}");
        assert!(output.trim_end().split([',', '\n']).any(|flag| flag == word), "{word}: {output}");
    }
    // The last word counts.
    let output = run(&podrun, &["-v", &format!("{host}:/mnt:noexec,exec")], &script).ok();
    assert!(output.starts_with("ran\n"), "{output}");
}

#[test]
fn a_mount_below_comes_along_and_is_as_closed_as_asked() {
    let podrun = Podrun::new();
    let host = source(&podrun, "host");
    fs::create_dir(Path::new(&host).join("sub")).unwrap();
    // In a mount namespace of its own: nothing of it can be left.
    let script = "mount --bind \"$1\" \"$1\"; mount --make-private \"$1\"; mount -t tmpfs below \"$1/sub\"; \
         : > \"$1/sub/seen\"; podrun run c --rm --rootfs \"$BUSYBOX\" -v \"$1:/mnt:$2\" -- \
         sh -c 'ls /mnt/sub; for d in /mnt /mnt/sub; do (: > $d/x) 2>/dev/null && echo $d; done; :'";
    let with = |options: &str| podrun.program("unshare", ["-m", "sh", "-euc", script, "sh", &host, options]);
    with("rw").prints("seen\n/mnt\n/mnt/sub\n");
    with("ro").prints("seen\n");
    with("rro").prints("seen\n");
    // Without what is mounted below, the place is what the directory itself has there: empty.
    with("bind").prints("/mnt\n/mnt/sub\n");
}

#[test]
fn propagation_is_private_unless_asked_for() {
    let podrun = Podrun::new();
    let host = source(&podrun, "host");
    let script = "mount -t tmpfs tmpfs \"$1\"; mount --make-shared \"$1\"; \
         podrun run c --rm --rootfs \"$BUSYBOX\" -v \"$1:/mnt:$2\" -- \
         sh -c 'awk \"\\$5 == \\\"/mnt\\\" { print \\$7 }\" /proc/self/mountinfo | cut -d: -f1'";
    let with = |options: &str| podrun.program("unshare", ["-m", "sh", "-euc", script, "sh", &host, options]);
    with("rw").prints("-\n");
    with("rshared").prints("shared\n");
    with("rslave").prints("master\n");
}

#[test]
fn a_file_goes_on_a_file_and_its_place_is_made() {
    let podrun = Podrun::new();
    let host = source(&podrun, "host");
    let file = format!("{host}/file");
    let mount = format!("type=bind,src={file},dst=/new/dir/name");
    run(&podrun, &["--mount", &mount], "cat /new/dir/name").prints("of the host\n");
    run(&podrun, &["-v", &format!("{file}:/etc")], "true")
        .fails(125, "mount on /etc: a file cannot be mounted on a directory");
    run(&podrun, &["-v", &format!("{host}:/etc/passwd")], "true")
        .fails(125, "mount on /etc/passwd: a directory cannot be mounted on a file");
}

#[test]
fn a_target_behind_a_link_stays_inside() {
    let podrun = Podrun::new();
    let host = source(&podrun, "host");
    let outside = podrun.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    let image = podrun.dir().join("image");
    for dir in ["bin", "proc", "sys", "dev"] {
        fs::create_dir_all(image.join(dir)).unwrap();
    }
    fs::copy(busybox() + "/bin/busybox", image.join("bin/busybox")).unwrap();
    symlink(&outside, image.join("absolute")).unwrap();
    symlink("../../../../../../../..".to_owned() + outside.to_str().unwrap(), image.join("up")).unwrap();
    for (link, inside) in [("absolute", "a"), ("up", "b")] {
        let volume = format!("{host}:/{link}/{inside}");
        let args = ["run", "c", "--rm", "--rootfs", image.to_str().unwrap(), "-v", &volume, "--"];
        let seen = format!("/{link}/{inside}/file");
        podrun.cmd(args.into_iter().chain(["/bin/busybox", "cat", &seen])).prints("of the host\n");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was made outside");
}

#[test]
fn a_tmpfs_is_as_asked() {
    let podrun = Podrun::new();
    let script = "stat -c '%a %u:%g' /mnt; df -k /mnt | tail -n 1 | awk '{print $2}'; \
                  awk '$5 == \"/mnt\" { print $6 }' /proc/self/mountinfo";
    let tmpfs = "/mnt:size=64k,mode=1750,uid=7,gid=8,exec";
    run(&podrun, &["--tmpfs", tmpfs], script).prints("1750 7:8\n64\nrw,nosuid,nodev,relatime\n");
    let mount = "type=tmpfs,target=/mnt,tmpfs-size=65536,tmpfs-mode=700,ro";
    run(&podrun, &["--mount", mount], script).prints("700 0:0\n64\nro,nosuid,nodev,noexec,relatime\n");
}

#[test]
fn a_tmpfs_may_begin_with_what_is_there() {
    let podrun = Podrun::new();
    let script = "cat /etc/hostname >/dev/null && grep -c ^user: /etc/passwd; : > /etc/new && echo writable";
    run(&podrun, &["--hostname", "h", "--tmpfs", "/etc:tmpcopyup"], script).prints("1\nwritable\n");
    let script = "ls -ld /home/user | cut -c 1-10; (: > /home/new) 2>/dev/null || echo refused";
    run(&podrun, &["--mount", "type=tmpfs,target=/home,tmpcopyup,ro"], script)
        .prints("drwxr-xr-x\nrefused\n");
    // As engines write it.
    let mut config =
        config(&busybox(), &["sh", "-c", "cat /home/../etc/group | head -n 1; ls -ld /home/user"]);
    config["mounts"].as_array_mut().unwrap().push(json!(
        {"destination": "/home", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nosuid"]}
    ));
    let engine = Engine::create(&podrun, "o", &config);
    podrun.cmd(["start", "o"]).exits(0);
    let out = engine.wait().out();
    assert!(out.starts_with("root:x:0:\n") && out.contains("user     user"), "{out}");
    podrun.cmd(["delete", "o"]).run().expect(0);
}

#[test]
fn a_device_of_the_configuration_may_be_anywhere() {
    let podrun = Podrun::new();
    let image = podrun.dir().join("image");
    for dir in ["bin", "proc", "sys", "dev"] {
        fs::create_dir_all(image.join(dir)).unwrap();
    }
    fs::copy(busybox() + "/bin/busybox", image.join("bin/busybox")).unwrap();
    let argv = ["/bin/busybox", "stat", "-c", "%F %t:%T %a %u", "/dev/deep/zero", "/srv/null"];
    let mut config = config(image.to_str().unwrap(), &argv);
    config["linux"]["devices"] = json!([
        {"path": "/dev/deep/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7},
        {"path": "/srv/null", "type": "c", "major": 1, "minor": 3},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
    ]);
    let engine = Engine::create(&podrun, "o", &config);
    podrun.cmd(["start", "o"]).exits(0);
    let expected = "character special file 1:5 640 7\ncharacter special file 1:3 666 0\n";
    assert_eq!(engine.wait().out(), expected);
    podrun.cmd(["delete", "o"]).run().expect(0);
    assert_eq!(fs::metadata(image.join("srv/null")).unwrap().rdev(), rustix::fs::makedev(1, 3));
}

#[test]
fn an_overlay_goes_above_any_directory_and_keeps_what_was_written() {
    let podrun = Podrun::new();
    let image = podrun.dir().join("odd: name,with\\all \"of'them=");
    let copy = Cmd::new("cp", ["-a", &busybox(), image.to_str().unwrap()]);
    copy.exits(0);
    let rootfs = format!("{}:O", image.display());
    let script = "[ -e /kept ] && echo kept; echo x > /kept; rm -f /etc/group; ls -d /bin";
    podrun.cmd(["run", "c", "--rootfs", &rootfs, "--", "sh", "-c", script]).prints("/bin\n");
    assert!(!image.join("kept").exists() && image.join("etc/group").exists(), "the lower was written");
    podrun.settle();
    podrun.cmd(["start", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("0\n");
    podrun.cmd(["logs", "c"]).prints("/bin\nkept\n/bin\n");
}

#[test]
fn a_wrong_mount_is_an_error_and_leaves_nothing() {
    let podrun = Podrun::new();
    let host = source(&podrun, "host");
    for (option, why) in [
        (["-v", "/no/such:/mnt"], "/no/such: no such file or directory"),
        (["-v", &format!("{host}:/mnt/../../etc")], ".."),
        (["-v", &format!("{host}:/mnt:rocks")], "\"rocks\" is unknown"),
        (["-v", &format!("{host}:/mnt:U")], "\"U\""),
        (["-v", &format!("{host}:/")], "root"),
        (["--mount", "type=bind,src=/no/such,dst=/mnt"], "/no/such: no such file or directory"),
        (["--mount", &format!("type=bind,src={host},dst=/a/../../b")], ".."),
        (["--mount", &format!("type=bind,src={host},dst=/mnt,rocks=1")], "rocks=1"),
        (["--mount", "type=volume,src=data,dst=/mnt"], "no named volumes"),
        (["--mount", &format!("src={host},dst=/mnt")], "needs a type"),
        (["--tmpfs", "/mnt:size=lots"], "size=lots"),
        (["--tmpfs", "mnt"], "absolute"),
    ] {
        run(&podrun, &option, "true").fails(125, why);
        podrun.cmd(["list", "-q"]).prints("");
    }
    // What only the kernel knows, and what an engine's configuration may say.
    for (mount, why) in [
        (
            json!({"destination": "/mnt", "type": "bind", "source": host, "options": ["rbind", "rocks"]}),
            "\"rocks\"",
        ),
        (json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["rocks"]}), "rocks"),
        (
            json!({"destination": "/mnt", "type": "bind", "source": "/no/such", "options": ["rbind"]}),
            "/no/such",
        ),
        (json!({"destination": "/../mnt", "type": "bind", "source": host, "options": ["rbind"]}), ".."),
    ] {
        let mut config = config(&busybox(), &["true"]);
        config["mounts"].as_array_mut().unwrap().push(mount);
        let dir = crate::harness::bundle::bundle(&podrun.dir().join("bundle"), &config);
        let output = podrun.cmd(["create", "--bundle", dir.to_str().unwrap(), "o"]).run();
        assert!(matches!(output.code, Some(1 | 2)) && output.err().contains(why), "{output}");
        podrun.cmd(["list", "-q"]).prints("");
    }
}

#[test]
fn a_device_of_the_host_is_where_it_was_asked_for() {
    let podrun = Podrun::new();
    let stat = "stat -c '%F %t:%T %a' /dev/fuzz/zero; head -c 3 /dev/fuzz/zero | wc -c";
    let options = ["--device", "/dev/zero:/dev/fuzz/zero:r"];
    run(&podrun, &options, stat).prints("character special file 1:5 666\n3\n");
    // The permission to open it is in the configuration, with the access that was asked for.
    let rootfs = busybox();
    let args = ["create", "d", "--rootfs", &rootfs, "--device", "/dev/zero:/dev/z:r", "--", "true"];
    podrun.cmd(args).prints("d\n");
    let spec = fs::read_to_string(podrun.container_dir("d").join("spec.json")).unwrap();
    let spec: serde_json::Value = serde_json::from_str(&spec).unwrap();
    let expected = json!([{"allow": true, "type": "c", "major": 1, "minor": 5, "access": "r"}]);
    assert_eq!(spec["linux"]["resources"]["devices"], expected);
    // Every device of a directory, and nothing else that is in it.
    let dir = podrun.dir().join("devices");
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    for (name, minor) in [("a", 3), ("sub/b", 5)] {
        let mode = rustix::fs::Mode::from_raw_mode(0o640);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, dir.join(name), kind, mode, rustix::fs::makedev(1, minor))
            .unwrap();
    }
    let option = format!("{}:/dev/all", dir.display());
    let script = "cd /dev/all; find . -type c -exec stat -c '%n %t:%T' {} + | sort; ls file 2>/dev/null; :";
    run(&podrun, &["--device", &option], script).prints("./a 1:3\n./sub/b 1:5\n");
    for (device, why) in [
        ("/no/such", "/no/such: no such file or directory"),
        ("/etc/passwd", "is not a device"),
        ("/dev/null:/dev/x:rx", "not made of r, w and m"),
        ("null", "not absolute"),
    ] {
        run(&podrun, &["--device", device], "true").fails(125, why);
    }
}

#[test]
fn nothing_of_a_read_only_root_is_written_not_even_what_podrun_puts_there() {
    let podrun = Podrun::new();
    let script = "for f in hosts resolv.conf hostname; do echo x >>/etc/$f || echo refused; done 2>/dev/null; cat /etc/hostname";
    let args = ["run", "--rm", "c", "--read-only", "--rootfs", &overlay(busybox()), "--", "sh", "-c", script];
    podrun.cmd(args).prints("refused\nrefused\nrefused\nc\n");
    let args = ["run", "--rm", "c", "--rootfs", &overlay(busybox()), "--", "sh", "-c", script];
    podrun.cmd(args).prints("c\nx\n");
}

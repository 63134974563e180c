//! An image whose names lead elsewhere.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{create_oci, image, oci};
use crate::harness::bundle::Engine;
use crate::harness::{Podrun, leaks};

/// An image in which `name` is a link to an empty directory of the host, and that directory.
fn image_with_link(podrun: &Podrun, name: &str) -> (PathBuf, PathBuf) {
    let image = image(podrun, &[]);
    let outside = tempfile::Builder::new().prefix("outside-").tempdir_in(podrun.dir()).expect("a directory");
    let link = image.join(name);
    std::fs::remove_dir(&link).or_else(|_| std::fs::remove_file(&link)).ok();
    symlink(outside.path(), link).expect("make a link");
    (image, outside.keep())
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).expect("read a directory").next().is_none()
}

/// CVE-2023-27561, CVE-2019-19921, CVE-2025-54867; CVE-2026-41579 and CVE-2026-47766: `/proc`, `/sys` or `/dev`
/// of the image is a link, to a directory of the host or of the image: the first would be
/// filled, the second would leave the container without masks.
#[test]
fn the_kernels_directories_are_no_links() {
    let podrun = Podrun::new();
    for name in ["proc", "sys", "dev"] {
        let (image, outside) = image_with_link(&podrun, name);
        let root = image.to_str().expect("a path in UTF-8");
        let refused = format!("/{name}: the root filesystem has a symbolic link there");
        let create = |rootfs: &str| podrun.cmd(["create", "c", "--rootfs", rootfs, "--", "true"]).run();
        create(root).is_a_failure(125, &refused);
        create(&format!("{root}:O")).is_a_failure(125, &refused);
        let output = create_oci(&podrun, "c", &oci(&image, &["true"]));
        assert!(output.code == Some(1) && output.err().contains(&refused), "{output}");
        std::fs::remove_file(image.join(name)).expect("remove the link");
        symlink("tmp", image.join(name)).expect("make a link");
        create(root).is_a_failure(125, &refused);
        assert!(is_empty(&outside) && is_empty(&image.join("tmp")), "something was made in {name}'s target");
        leaks::check(&podrun);
    }
}

/// CVE-2025-24965: the files that the runtime provides in `/etc` are links to the host.
#[test]
fn nothing_is_written_through_a_link_in_etc() {
    let podrun = Podrun::new();
    let (image, outside) = image_with_link(&podrun, "tmp/x");
    for name in ["hosts", "hostname", "resolv.conf"] {
        symlink(outside.join(name), image.join("etc").join(name)).expect("make a link");
    }
    let root = image.to_str().expect("a path in UTF-8");
    let show = "cat /etc/hostname";
    let args =
        ["run", "--rm", "--hostname", "inside", "--read-only", "--rootfs", root, "--", "sh", "-c", show];
    podrun.cmd(args).prints("inside\n");
    let overlay = format!("{root}:O");
    let args = ["run", "--rm", "--hostname", "inside", "--rootfs", &overlay, "--", "sh", "-c", show];
    podrun.cmd(args).prints("inside\n");
    assert!(is_empty(&outside), "a file of {} was made", outside.display());
}

/// CVE-2025-31133 without a race: the image's null device is a link to a setting of the host, and `/dev` is the
/// image's own. Masks are the kernel's null device.
#[test]
fn a_mask_is_not_what_the_image_calls_null() {
    let podrun = Podrun::new();
    let image = image(&podrun, &[]);
    symlink("/proc/sys/kernel/core_pattern", image.join("dev/null")).expect("make a link");
    let mut config = oci(&image, &["stat", "-c", "%F %t:%T", "/proc/version"]);
    config["mounts"].as_array_mut().expect("a list").retain(|mount| mount["destination"] == "/proc");
    config["linux"]["maskedPaths"] = serde_json::json!(["/proc/version"]);
    let engine = Engine::create(&podrun, "c", &config);
    podrun.cmd(["start", "c"]).ok();
    assert_eq!(engine.wait().out(), "character special file 1:3\n");
}

//! A terminal whose name stands for something else.

use std::os::unix::fs::symlink;

use serde_json::json;

use super::races::{mounts, race, while_exchanging};
use super::{image, oci};
use crate::harness::Podrun;
use crate::harness::bundle::bundle;

/// CVE-2025-52565: while a container with a terminal is built, `/dev/pts` is exchanged for a directory in which
/// `ptmx` and the ptys are links to a setting of the host, and `/dev/console` for such a link itself. A runtime
/// that binds the pty by its name shows the container that setting, writable, where nothing is masked yet.
#[test]
fn a_console_is_the_pty_that_was_made_campaign() {
    let podrun = Podrun::new();
    let image = image(&podrun, &[]);
    let setting = "/proc/sys/kernel/core_pattern";
    let [pts, evil] = ["dev/pts", "dev/evil"].map(|name| image.join(name));
    let [console, link] = ["dev/console", "dev/link"].map(|name| image.join(name));
    for dir in [&pts, &evil] {
        std::fs::create_dir(dir).expect("make a directory");
    }
    for name in ["ptmx", "0", "1", "2"] {
        symlink(setting, evil.join(name)).expect("make a link");
    }
    std::fs::write(&console, "").expect("write a file");
    symlink(setting, &link).expect("make a link");
    // The image's own `/dev`, as a shared volume would be.
    let mut config = oci(&image, &["true"]);
    config["process"]["terminal"] = json!(true);
    let kept =
        |mount: &serde_json::Value| ["/proc", "/dev/pts"].map(Into::into).contains(&mount["destination"]);
    config["mounts"].as_array_mut().expect("a list").retain(kept);
    let dir = bundle(&podrun.dir().join("bundle"), &config);
    let create = ["create", "--bundle", dir.to_str().expect("a path in UTF-8"), "--supervise", "c"];
    while_exchanging(&console, &link, || {
        race(
            &podrun,
            [&pts, &evil],
            |_| podrun.cmd(create).run(),
            |_, pid| {
                // Names may have moved since; mounts have not.
                let mounts = mounts(pid);
                let consoles: Vec<_> = mounts
                    .iter()
                    .filter(|[_, place, _]| ["/dev/console", "/dev/link"].contains(&place.as_str()))
                    .collect();
                let is_pty = |mount: &&[String; 3]| mount[0] == "/0" && mount[2] == "devpts";
                assert!(consoles.len() == 1 && consoles.iter().all(is_pty), "{mounts:?}");
                assert!(!mounts.iter().any(|[root, ..]| root.contains("core_pattern")), "{mounts:?}");
            },
        );
    });
}

//! What this runtime can do, as an engine asks it (`features`, OCI runtime specification 1.1).
//!
//! Mount options and capabilities are read from the code that does the thing; the rest is written down here.

use rustix::thread::CapabilitySet;
use serde_json::{Value, json};

/// The oldest configuration that is accepted.
const OLDEST: &str = "1.0.0";
/// The newest specification that is followed in all it says; fields of later ones are known, too.
const NEWEST: &str = "1.2.1";

/// Hooks, in the order in which they run.
const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// The features document.
pub fn features() -> Value {
    json!({
        "ociVersionMin": OLDEST,
        "ociVersionMax": NEWEST,
        "hooks": HOOKS,
        "mountOptions": crate::launch::MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities(),
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": false},
            "seccomp": {"enabled": true},
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
        "annotations": {"dev.podrun.version": env!("CARGO_PKG_VERSION")},
    })
}

/// Those that this build can give.
fn capabilities() -> Vec<String> {
    CapabilitySet::all().iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

//! OCI bundles with a shim: `run --bundle` and `create --bundle --supervise`.

use serde_json::json;

use crate::harness::bundle::{bundle, config};
use crate::harness::{Podrun, busybox};

#[test]
fn a_bundle_runs_with_a_shim_and_its_exit_code_is_ours() {
    let podrun = Podrun::new();
    std::fs::write(podrun.dir().join("file"), "beside\n").expect("write a file");
    let mut config = config(&busybox(), &["sh", "-c", "cat /tmp/file; hostname; exit 3"]);
    // A relative path begins at the bundle.
    let mount = json!({"destination": "/tmp", "type": "bind", "source": "..", "options": ["bind"]});
    config["mounts"].as_array_mut().expect("mounts").push(mount);
    let dir = bundle(&podrun.dir().join("bundle"), &config);
    let output = podrun.cmd(["run", "--bundle", "bundle", "b"]).run();
    assert_eq!(
        (output.code, output.out(), output.err()),
        (Some(3), "beside\nbundle\n".into(), String::new())
    );
    assert_eq!(podrun.state("b")["exitCode"], 3);
    podrun.cmd(["logs", "b"]).prints("beside\nbundle\n");
    podrun.cmd(["start", "b"]).prints("b\n");
    podrun.cmd(["wait", "b"]).prints("3\n");
    let output = podrun.cmd(["run", "--rm", "--bundle", dir.to_str().expect("UTF-8"), "gone"]).run();
    output.expect(3);
    podrun.settle();
    podrun.cmd(["state", "gone"]).fails(1, "does not exist");
}

#[test]
fn a_created_bundle_may_have_a_shim() {
    let podrun = Podrun::new();
    bundle(&podrun.dir().join("bundle"), &config(&busybox(), &["sleep", "1000"]));
    podrun.cmd(["create", "--bundle", "bundle", "--supervise", "b"]).prints("b\n");
    podrun.cmd(["start", "b"]).prints("b\n");
    assert_eq!(podrun.state("b")["shim"]["alive"], true);
    podrun.cmd(["exec", "b", "hostname"]).prints("bundle\n");
    podrun.cmd(["kill", "b"]).exits(0);
    podrun.cmd(["wait", "b"]).prints("143\n");
}

#[test]
fn hooks_run_with_a_shim_too_and_what_it_does_not_do_is_refused() {
    let podrun = Podrun::new();
    let log = podrun.dir().join("log");
    let hook = |word: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {word} >>{}", log.display())]}]);
    let mut config = config(&busybox(), &["true"]);
    config["hooks"] =
        json!({"prestart": hook("one"), "createRuntime": hook("two"), "createContainer": hook("three")});
    bundle(&podrun.dir().join("bundle"), &config);
    podrun.cmd(["run", "--bundle", "bundle", "b"]).exits(0);
    assert_eq!(std::fs::read_to_string(&log).expect("the hooks ran"), "one\ntwo\nthree\n");
    for kind in ["poststart", "poststop"] {
        config["hooks"] = json!({kind: hook("never")});
        bundle(&podrun.dir().join("bundle"), &config);
        podrun.cmd(["run", "--bundle", "bundle", "c"]).fails(125, &format!("config hooks.{kind}"));
    }
    config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    bundle(&podrun.dir().join("bundle"), &config);
    podrun
        .cmd(["run", "--bundle", "bundle", "c"])
        .fails(125, "hooks.createRuntime /bin/false: exited with code 1");
    podrun.cmd(["list", "-q"]).prints("b\n");
}

//! What an OCI configuration may ask for and podrun does not do yet: an error that names the field,
//! because a wall that is silently left out is worse than a container that does not start.

use oci_spec::runtime::{Linux, Process, Spec};

use crate::error::{Error, Result};

/// Refuses a configuration that asks for more than podrun does.
pub(super) fn refuse(spec: &Spec) -> Result<()> {
    let mut wanted: Vec<(&'static str, bool)> = Vec::new();
    if let Some(hooks) = spec.hooks() {
        wanted.extend([
            ("hooks.prestart", some(hooks.prestart())),
            ("hooks.createRuntime", some(hooks.create_runtime())),
            ("hooks.createContainer", some(hooks.create_container())),
            ("hooks.startContainer", some(hooks.start_container())),
            ("hooks.poststart", some(hooks.poststart())),
            ("hooks.poststop", some(hooks.poststop())),
        ]);
    }
    wanted.extend(spec.linux().iter().flat_map(linux));
    first_of(wanted)
}

/// The same for a process alone.
pub(super) fn refuse_process(wanted: &Process) -> Result<()> {
    first_of(process(wanted))
}

fn first_of(wanted: impl IntoIterator<Item = (&'static str, bool)>) -> Result<()> {
    match wanted.into_iter().find(|(_, wanted)| *wanted) {
        Some((field, _)) => Err(Error::usage(format!("config {field}"), "is not supported yet")),
        None => Ok(()),
    }
}

fn process(process: &Process) -> [(&'static str, bool); 3] {
    [
        ("process.ioPriority", process.io_priority().is_some()),
        ("process.scheduler", process.scheduler().is_some()),
        ("process.execCPUAffinity", process.exec_cpu_affinity().is_some()),
    ]
}

fn linux(linux: &Linux) -> Vec<(&'static str, bool)> {
    vec![
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        ("linux.personality", linux.personality().is_some()),
        ("linux.resources.network", linux.resources().as_ref().is_some_and(|own| own.network().is_some())),
        ("linux.netDevices", linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty())),
    ]
}

/// Whether a list is there and has something in it.
fn some<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: &str) -> String {
        let spec: Spec = serde_json::from_str(config).unwrap();
        let process = spec.process().as_ref().map_or(Ok(()), refuse_process);
        process.and_then(|()| refuse(&spec)).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        let process = r#""args":["a"],"cwd":"/","user":{"uid":0,"gid":0}"#;
        let config = |more: &str| format!(r#"{{"ociVersion":"1.0.2",{more}}}"#);
        let label = config(&format!(
            r#""process":{{{process},"ioPriority":{{"class":"IOPRIO_CLASS_BE","priority":1}}}}"#
        ));
        assert!(refused(&label).contains("process.ioPriority"));
        let limits = config(r#""linux":{"resources":{"network":{"classID":5}}}"#);
        assert!(refused(&limits).contains("linux.resources.network"));
        let hooks = config(r#""hooks":{"poststop":[{"path":"/bin/true"}]}"#);
        assert!(refused(&hooks).contains("hooks.poststop"));
    }

    #[test]
    fn what_asks_for_nothing_passes() {
        let config = r#"{"ociVersion":"1.0.2","hooks":{},"linux":{"resources":
            {"devices":[{"allow":false,"access":"rwm"}]}}}"#;
        refuse(&serde_json::from_str(config).unwrap()).unwrap();
    }
}

//! `config.json` as an engine wrote it.

use std::path::Path;

use oci_spec::runtime::Process;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Spec;
use crate::error::{Error, Result};

/// Reads a configuration; an error names the field.
pub fn parse(text: &[u8]) -> Result<Spec> {
    let mut value = json(text, "config")?;
    if let Some(process) = value.get_mut("process") {
        complete(process);
    }
    // Old engines write places inside without the root that they begin at.
    for mount in value.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(Value::String(place)) = mount.get_mut("destination")
            && !place.is_empty()
            && !place.starts_with('/')
        {
            place.insert(0, '/');
        }
    }
    typed(value, "config")
}

/// Reads a process alone, as `exec --process` gets it.
pub fn parse_process(text: &[u8]) -> Result<Process> {
    let mut value = json(text, "process")?;
    complete(&mut value);
    typed(value, "process")
}

/// Makes `config`, which was read at `bundle`, mean the same wherever it is kept: its relative paths begin
/// there.
pub fn anchor(config: &mut Spec, bundle: &Path) {
    if let Some(mut root) = config.root().clone() {
        root.set_path(bundle.join(root.path()));
        config.set_root(Some(root));
    }
    for mount in config.mounts_mut().iter_mut().flatten() {
        let is = |word: &str| mount.options().iter().flatten().any(|option| option == word);
        let bind = mount.typ().as_deref() == Some("bind") || is("bind") || is("rbind");
        if let Some(source) = mount.source().clone().filter(|_| bind) {
            mount.set_source(Some(bundle.join(source)));
        }
    }
}

/// Where the container's cgroup shall be: `linux.cgroupsPath`, where it says something.
pub fn cgroups_path(config: &Spec) -> Option<&Path> {
    let wanted = config.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    wanted.filter(|path| !path.as_os_str().is_empty())
}

fn json(text: &[u8], what: &str) -> Result<Value> {
    serde_json::from_slice(text).map_err(|error| Error::usage(what, error.to_string()))
}

/// The specification lets a process leave its user out: that is root. The type does not.
fn complete(process: &mut Value) {
    if let Some(process) = process.as_object_mut() {
        process.entry("user").or_insert_with(|| json!({}));
    }
    // Nor does it know these two by their names.
    for flag in process.pointer_mut("/scheduler/flags").and_then(Value::as_array_mut).into_iter().flatten() {
        match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => *flag = json!("SCHED_RESET_ON_FORK"),
            Some("SCHED_FLAG_DL_OVERRUN") => *flag = json!("SCHED_FLAG_D_L_OVERRUN"),
            _ => {}
        }
    }
}

fn typed<T: DeserializeOwned>(value: Value, what: &str) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = match error.path().to_string().as_str() {
            "." => what.to_owned(),
            field => format!("{what} {field}"),
        };
        Error::usage(field, error.into_inner().to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_the_scheduler_has_the_specifications_name() {
        for flag in ["RESET_ON_FORK", "RECLAIM", "DL_OVERRUN", "KEEP_POLICY", "KEEP_PARAMS", "UTIL_CLAMP_MIN"]
        {
            let process = json!({"cwd": "/", "args": ["true"],
                "scheduler": {"policy": "SCHED_OTHER", "flags": [format!("SCHED_FLAG_{flag}")]}});
            assert!(parse_process(process.to_string().as_bytes()).is_ok(), "{flag}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let complaint = |text: &str| parse(text.as_bytes()).unwrap_err().to_string();
        assert!(complaint("").starts_with("config: EOF"));
        assert!(complaint("{} x").starts_with("config: trailing"));
        assert!(complaint(r#"{"ociVersion":1}"#).starts_with("config ociVersion: invalid type"));
        let namespaces =
            r#"{"ociVersion":"1.0.2","linux":{"namespaces":[{"type":"mount"},{"type":"moon"}]}}"#;
        assert!(complaint(namespaces).starts_with("config linux.namespaces[1].type: unknown variant `moon`"));
        let process = r#"{"ociVersion":"1.0.2","process":{"args":["a"]}}"#;
        assert_eq!(complaint(process), "config process: missing field `cwd`");
    }

    #[test]
    fn a_process_without_a_user_is_roots() {
        assert_eq!(parse_process(br#"{"args":["a"],"cwd":"/"}"#).unwrap().user().uid(), 0);
    }
}

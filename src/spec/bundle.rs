//! `config.json` as an engine wrote it.

use std::path::Path;

use oci_spec::runtime::{Capability, Process};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Spec;
use crate::error::{Error, Result};

/// Hears of what is passed over and does not fail the container.
pub type Warn<'a> = &'a dyn Fn(&Error);

/// Reads a configuration; an error names the field.
pub fn parse(text: &[u8], warn: Warn<'_>) -> Result<Spec> {
    let mut value = json(text, "config")?;
    if let Some(process) = value.get_mut("process") {
        complete(process);
        pass_over_capabilities(process, "config process.capabilities", warn);
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
pub fn parse_process(text: &[u8], warn: Warn<'_>) -> Result<Process> {
    let mut value = json(text, "process")?;
    complete(&mut value);
    pass_over_capabilities(&mut value, "process capabilities", warn);
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

/// Takes out the names that no capability has: they are to be warned of, and not to fail the container (runtime
/// specification, `capabilities`), for an engine may know more of them than the kernel or podrun does.
fn pass_over_capabilities(process: &mut Value, field: &str, warn: Warn<'_>) {
    let mut unknown = Vec::new();
    for set in ["bounding", "permitted", "effective", "inheritable", "ambient"] {
        let place = format!("/capabilities/{set}");
        let Some(names) = process.pointer_mut(&place).and_then(Value::as_array_mut) else { continue };
        names.retain(|name| {
            let unheard_of = name.is_string() && Capability::deserialize(name).is_err();
            if unheard_of && !unknown.contains(name) {
                unknown.push(name.clone());
            }
            !unheard_of
        });
    }
    for name in unknown {
        warn(&Error::usage(field, format!("{name} is no capability that podrun knows: it is not given")));
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
            assert!(parse_process(process.to_string().as_bytes(), &|_| ()).is_ok(), "{flag}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let complaint = |text: &str| parse(text.as_bytes(), &|_| ()).unwrap_err().to_string();
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
        assert_eq!(parse_process(br#"{"args":["a"],"cwd":"/"}"#, &|_| ()).unwrap().user().uid(), 0);
    }

    #[test]
    fn capabilities_that_nobody_knows_are_told_once_and_the_others_stay() {
        let process = json!({"args": ["a"], "cwd": "/", "capabilities": {
            "bounding": ["CAP_FUTURE", "CAP_KILL"], "effective": ["CAP_FUTURE", "CAP_PAST"],
        }});
        let told = std::cell::RefCell::new(Vec::new());
        let warn = |error: &Error| told.borrow_mut().push(error.to_string());
        let process = parse_process(process.to_string().as_bytes(), &warn).unwrap();
        let sets = process.capabilities().clone().unwrap();
        assert_eq!(sets.bounding().clone().unwrap(), [Capability::Kill].into());
        assert_eq!(sets.effective().clone().unwrap(), [].into());
        let told = told.into_inner();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("CAP_FUTURE") && told[1].contains("CAP_PAST"), "{told:?}");
        let number = br#"{"args":["a"],"cwd":"/","capabilities":{"bounding":[1]}}"#;
        assert!(parse_process(number, &|_| ()).is_err());
    }
}

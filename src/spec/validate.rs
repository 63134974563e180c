//! What an OCI configuration must have before anything is built from it. Errors name the field.
//!
//! What depends on the host or on the root filesystem is for launch to find out.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Process, Spec};

use crate::error::{Error, Result};
use crate::spec::idmap;

fn wrong(field: impl Into<String>, why: impl Into<String>) -> Error {
    Error::usage(format!("config {}", field.into()), why)
}

/// Refuses a configuration that podrun cannot or must not run.
pub fn validate(spec: &Spec) -> Result<()> {
    if !spec.version().starts_with("1.") {
        let why = format!("{:?} is not a version 1 of the OCI runtime specification", spec.version());
        return Err(wrong("ociVersion", why));
    }
    super::unsupported::refuse(spec)?;
    let root = spec.root().as_ref().ok_or_else(|| wrong("root", "is missing"))?;
    path("root.path", root.path(), Shape::Any)?;
    process(spec.process().as_ref().ok_or_else(|| wrong("process", "is missing"))?)?;
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let field = |name| format!("mounts[{index}].{name}");
        path(&field("destination"), mount.destination(), Shape::Absolute)?;
        if let Some(source) = mount.source() {
            path(&field("source"), source, Shape::MaybeEmpty)?;
        }
        mappings(&field("uidMappings"), mount.uid_mappings(), &field("gidMappings"), mount.gid_mappings())?;
        for option in mount.options().iter().flatten() {
            text(&field("options"), option)?;
        }
    }
    hooks(spec)?;
    linux(spec, spec.linux().as_ref().ok_or_else(|| wrong("linux", "is missing"))?)
}

/// The same for a process alone: the container's own, or one that joins.
pub fn process(process: &Process) -> Result<()> {
    let args = process.args().as_deref().unwrap_or_default();
    match args.first().map(String::as_str) {
        None => return Err(wrong("process.args", "is missing or empty").hint("the command goes behind `--`")),
        Some("") => return Err(wrong("process.args[0]", "is empty").hint("the command goes behind `--`")),
        Some(_) => {}
    }
    for (index, arg) in args.iter().enumerate() {
        text(&format!("process.args[{index}]"), arg)?;
    }
    for (index, entry) in process.env().iter().flatten().enumerate() {
        let field = format!("process.env[{index}]");
        text(&field, entry)?;
        if entry.find('=').is_none_or(|end| end == 0) {
            return Err(wrong(field, format!("{entry:?} is not KEY=VALUE")));
        }
    }
    let mut limits = HashSet::new();
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        let field = format!("process.rlimits[{index}]");
        if limit.soft() > limit.hard() {
            return Err(wrong(field, "the soft limit is above the hard one"));
        }
        if !limits.insert(limit.typ() as u32) {
            return Err(wrong(field, "the same limit is there twice"));
        }
    }
    path("process.cwd", process.cwd(), Shape::Absolute)
}

fn hooks(spec: &Spec) -> Result<()> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let prestart = hooks.prestart();
    for (kind, list) in [
        ("prestart", prestart),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ] {
        for (index, hook) in list.iter().flatten().enumerate() {
            let field = |name: &str| format!("hooks.{kind}[{index}].{name}");
            path(&field("path"), hook.path(), Shape::Absolute)?;
            for text in hook.args().iter().chain(hook.env()).flatten() {
                self::text(&field("args"), text)?;
            }
            if let Some(timeout @ ..=0) = hook.timeout() {
                return Err(wrong(field("timeout"), format!("{timeout} is not greater than zero")));
            }
        }
    }
    Ok(())
}

fn linux(spec: &Spec, linux: &Linux) -> Result<()> {
    let mut kinds = HashSet::new();
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let field = format!("linux.namespaces[{index}]");
        if !kinds.insert(namespace.typ() as u32) {
            return Err(wrong(field, "the same namespace is there twice"));
        }
        if let Some(target) = namespace.path() {
            path(&format!("{field}.path"), target, Shape::Absolute)?;
        }
    }
    user_namespace(spec, linux, kinds.contains(&(LinuxNamespaceType::User as u32)))?;
    // Without these two, building the container would change the host.
    if !kinds.contains(&(LinuxNamespaceType::Mount as u32)) {
        return Err(wrong("linux.namespaces", "has no mount namespace"));
    }
    let names = [("hostname", spec.hostname()), ("domainname", spec.domainname())];
    for (field, name) in names.into_iter().filter_map(|(field, name)| Some((field, name.as_ref()?))) {
        text(field, name)?;
        if !name.is_empty() && !kinds.contains(&(LinuxNamespaceType::Uts as u32)) {
            return Err(wrong(field, "needs a uts namespace of its own"));
        }
    }
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name) {
        if !sysctl_owner(name).is_some_and(|kind| kinds.contains(&(kind as u32))) {
            let why = "is not a setting of a namespace that the container has of its own";
            let error = wrong(format!("linux.sysctl {name}"), why);
            return Err(match sysctl_owner(name) {
                Some(LinuxNamespaceType::Network) => {
                    error.hint("with --network none the container has a network of its own")
                }
                _ => error,
            });
        }
    }
    super::net_device::check(linux, kinds.contains(&(LinuxNamespaceType::Network as u32)))?;
    let offsets = linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty());
    if offsets && !kinds.contains(&(LinuxNamespaceType::Time as u32)) {
        return Err(wrong("linux.timeOffsets", "needs a time namespace of its own"));
    }
    let masked = linux.masked_paths().iter().flatten().map(|path| ("linux.maskedPaths", path));
    let read_only = linux.readonly_paths().iter().flatten().map(|path| ("linux.readonlyPaths", path));
    for (field, place) in masked.chain(read_only) {
        path(field, Path::new(place), Shape::Absolute)?;
    }
    Ok(())
}

/// Both maps, or neither; each as the kernel takes it. True where they are there.
fn mappings(
    uid_field: &str,
    uids: &Option<Vec<LinuxIdMapping>>,
    gid_field: &str,
    gids: &Option<Vec<LinuxIdMapping>>,
) -> Result<bool> {
    let some = |ranges: &Option<Vec<_>>| ranges.as_ref().is_some_and(|ranges| !ranges.is_empty());
    match (some(uids), some(gids)) {
        (false, false) => return Ok(false),
        (true, false) => return Err(wrong(gid_field, "is missing, and uidMappings is there")),
        (false, true) => return Err(wrong(uid_field, "is missing, and gidMappings is there")),
        (true, true) => {}
    }
    for (field, ranges) in [(uid_field, uids), (gid_field, gids)] {
        idmap::check(&format!("config {field}"), ranges.as_deref().unwrap_or_default())?;
    }
    Ok(true)
}

/// A user namespace has maps, and the maps a user namespace; root and the process's user are in them.
fn user_namespace(spec: &Spec, linux: &Linux, has_one: bool) -> Result<()> {
    let (uids, gids) = (linux.uid_mappings(), linux.gid_mappings());
    let mapped = mappings("linux.uidMappings", uids, "linux.gidMappings", gids)?;
    match (has_one, mapped) {
        (false, false) => return Ok(()),
        (true, false) => return Err(wrong("linux.uidMappings", "is missing: the user namespace needs it")),
        (false, true) => return Err(wrong("linux.uidMappings", "needs a user namespace")),
        (true, true) => {}
    }
    let user = spec.process().as_ref().map(|process| process.user().clone()).unwrap_or_default();
    for (field, ranges, id) in
        [("linux.uidMappings", uids, user.uid()), ("linux.gidMappings", gids, user.gid())]
    {
        let ranges = ranges.as_deref().unwrap_or_default();
        if idmap::to_host(ranges, 0).is_none() {
            return Err(wrong(field, "does not map root, who builds the container"));
        }
        if user.username().is_none() && idmap::to_host(ranges, id).is_none() {
            return Err(wrong(field, format!("does not map the process's own ID {id}"))
                .hint("--userns auto:size=NUMBER, or map:CONTAINER:HOST:SIZE, says which IDs it has"));
        }
    }
    Ok(())
}

/// The namespace that a kernel setting belongs to; `None` for one of the whole host.
fn sysctl_owner(name: &str) -> Option<LinuxNamespaceType> {
    const IPC: [&str; 9] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.auto_msgmni",
    ];
    let name = name.replace('/', ".");
    if name.contains("..") {
        None
    } else if name.starts_with("net.") {
        Some(LinuxNamespaceType::Network)
    } else if name == "kernel.domainname" || name == "kernel.hostname" {
        Some(LinuxNamespaceType::Uts)
    } else if name.starts_with("fs.mqueue.") || IPC.contains(&name.as_str()) {
        Some(LinuxNamespaceType::Ipc)
    } else {
        None
    }
}

/// What a path has to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Any,
    Absolute,
    MaybeEmpty,
}

fn path(field: &str, path: &Path, shape: Shape) -> Result<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.contains(&0) {
        return Err(wrong(field, "has a NUL byte"));
    }
    if bytes.is_empty() && shape != Shape::MaybeEmpty {
        return Err(wrong(field, "is missing or empty"));
    }
    if shape == Shape::Absolute && !path.is_absolute() {
        return Err(wrong(field, format!("{:?} is not an absolute path", path.display())));
    }
    Ok(())
}

fn text(field: &str, text: &str) -> Result<()> {
    if text.contains('\0') { Err(wrong(field, "has a NUL byte")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config() -> Value {
        json!({
            "ociVersion": "1.0.2",
            "root": { "path": "rootfs" },
            "process": { "user": { "uid": 0, "gid": 0 }, "args": ["true"], "env": ["A=b"], "cwd": "/" },
            "hostname": "c",
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
            "linux": { "namespaces": [{ "type": "mount" }, { "type": "uts" }] },
        })
    }

    fn complaint(pointer: &str, value: Value) -> String {
        let mut config = config();
        *config.pointer_mut(pointer).unwrap() = value;
        match serde_json::from_value::<Spec>(config) {
            Ok(spec) => validate(&spec).map_or_else(|error| error.what, |()| "nothing".to_owned()),
            Err(error) => format!("json: {error}"),
        }
    }

    #[test]
    fn an_ordinary_bundle_is_accepted() {
        validate(&serde_json::from_value(config()).unwrap()).unwrap();
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (pointer, value, field) in [
            ("/ociVersion", json!("2.0"), "config ociVersion"),
            ("/root", json!(null), "config root"),
            ("/root/path", json!(""), "config root.path"),
            ("/process", json!(null), "config process"),
            ("/process/args", json!([]), "config process.args"),
            ("/process/args", json!([""]), "config process.args[0]"),
            ("/process/args", json!(["a", "b\0"]), "config process.args[1]"),
            ("/process/env", json!(["A=b", "=c"]), "config process.env[1]"),
            ("/process/cwd", json!("tmp"), "config process.cwd"),
            ("/mounts/0/destination", json!("proc"), "config mounts[0].destination"),
            ("/linux", json!(null), "config linux"),
            ("/linux/namespaces", json!([{ "type": "uts" }]), "config linux.namespaces"),
            ("/linux/namespaces", json!([{ "type": "mount" }]), "config hostname"),
            (
                "/linux/namespaces",
                json!([{ "type": "mount" }, { "type": "mount" }]),
                "config linux.namespaces[1]",
            ),
        ] {
            assert_eq!(complaint(pointer, value), field, "{pointer}");
        }
    }
}

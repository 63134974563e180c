//! `linux.netDevices`: network devices that a container gets (runtime specification 1.3, `config-linux.md`,
//! "Network Devices").

use std::collections::HashSet;

use oci_spec::runtime::Linux;

use crate::error::{Error, Result};

/// `IFNAMSIZ` (`netdevice(7)`) without the NUL byte.
const MAX_NAME: usize = 15;
/// What stands in a name for the lowest number that is free.
const NUMBER: &str = "%d";
/// How far the kernel looks for one.
const NUMBERS: usize = 32768;

/// A network device that moves into the container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetDevice {
    /// Its name where podrun runs.
    pub host: String,
    /// Its name in the container, where that is another one; may be a [`template`](NetDevice::names).
    pub name: Option<String>,
}

impl NetDevice {
    /// Those of a configuration, in the order of their names.
    pub fn all(linux: &Linux) -> Vec<Self> {
        let named = linux.net_devices().iter().flatten();
        let mut all: Vec<_> = named
            .map(|(host, device)| Self {
                host: host.clone(),
                name: device.name().clone().filter(|name| !name.is_empty()),
            })
            .collect();
        all.sort();
        all
    }

    /// What it may be called in the container, the first choice first. Only a template (`eth%d`) has more
    /// than one.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        let name = self.name.as_ref().unwrap_or(&self.host);
        let template = self.name.as_ref().and_then(|name| name.split_once(NUMBER));
        (0..NUMBERS)
            .map(move |number| match template {
                Some((before, after)) => format!("{before}{number}{after}"),
                None => name.clone(),
            })
            .take(if template.is_some() { NUMBERS } else { 1 })
            .take_while(|name| name.len() <= MAX_NAME)
    }
}

/// Refuses what no device can be called, the same name for two, and devices for a container that has no network
/// namespace: they would have nowhere to go.
pub(super) fn check(linux: &Linux, has_namespace: bool) -> Result<()> {
    let mut taken = HashSet::new();
    let wrong = |device: &str, why: String| Error::usage(format!("config linux.netDevices {device}"), why);
    for device in NetDevice::all(linux) {
        if !has_namespace {
            return Err(wrong(&device.host, "needs a network namespace".to_owned())
                .hint("with the host's network the container has all of its devices"));
        }
        let host = &device.host;
        let names = [Some(host), device.name.as_ref()];
        for name in names.into_iter().flatten() {
            possible(name).map_err(|why| wrong(host, format!("the name {name:?} {why}")))?;
        }
        if let Some(name) = &device.name {
            let rest = name.replacen(NUMBER, "", 1);
            if rest.contains('%') {
                return Err(wrong(host, format!("the name {name:?} has a % that is not one {NUMBER}")));
            }
            if rest != *name {
                continue;
            }
        }
        let name = device.name.as_ref().unwrap_or(host);
        if !taken.insert(name.clone()) {
            return Err(wrong(host, format!("another device is to be called {name:?} as well")));
        }
    }
    Ok(())
}

/// Whether the kernel takes it as a device's name (`dev_valid_name`), and why not.
fn possible(name: &str) -> Result<(), String> {
    // The kernel's isspace: bytes, of Latin-1.
    let space = |byte: u8| matches!(byte, b' ' | b'\t'..=b'\r' | 0xa0);
    if name.is_empty() {
        Err("is empty".to_owned())
    } else if name.len() > MAX_NAME {
        Err(format!("is longer than {MAX_NAME} bytes"))
    } else if name == "." || name == ".." {
        Err("is a directory's".to_owned())
    } else if name.bytes().any(|byte| matches!(byte, b'/' | b':' | 0) || space(byte)) {
        Err("has a slash, a colon, white space or a NUL byte".to_owned())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn linux(devices: Value) -> Linux {
        serde_json::from_value(json!({ "netDevices": devices })).unwrap()
    }

    #[track_caller]
    fn refused(devices: Value, reason: &str) {
        let error = check(&linux(devices), true).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn a_name_is_one_that_the_kernel_takes() {
        let long = "123456789012345";
        check(&linux(json!({long: {"name": "é.1-x_y"}, "a..b": {}, "eth%d": {"name": ""}})), true).unwrap();
        for (name, why) in [
            ("", "empty"),
            ("1234567890123456", "longer than 15"),
            (".", "directory"),
            ("..", "directory"),
            ("a/b", "slash"),
            ("a:1", "colon"),
            ("a b", "white space"),
            ("a\u{b}", "white space"),
            ("à", "white space"),
            ("a\0", "NUL"),
        ] {
            refused(json!({ name: {} }), why);
            if !name.is_empty() {
                refused(json!({"eth0": {"name": name}}), why);
            }
        }
        refused(json!({"eth0": {"name": "a%"}}), "%");
        refused(json!({"eth0": {"name": "a%d%d"}}), "%");
    }

    #[test]
    fn no_two_get_the_same_name_and_all_need_a_namespace() {
        refused(json!({"a": {"name": "c"}, "b": {"name": "c"}}), "another device");
        refused(json!({"a": {"name": "b"}, "b": {}}), "another device");
        check(&linux(json!({"a": {"name": "b"}, "b": {"name": "a"}})), true).unwrap();
        check(&linux(json!({"a": {"name": "eth%d"}, "b": {"name": "eth%d"}})), true).unwrap();
        check(&linux(json!({})), false).unwrap();
        let error = check(&linux(json!({"a": {}})), false).unwrap_err().to_string();
        assert_eq!(error, "config linux.netDevices a: needs a network namespace");
    }

    #[test]
    fn a_template_has_many_names() {
        let names = |name: Option<&str>, count| {
            let device = NetDevice { host: "a".into(), name: name.map(str::to_owned) };
            device.names().take(count).collect::<Vec<_>>()
        };
        assert_eq!(names(None, 3), ["a"]);
        assert_eq!(names(Some("b"), 3), ["b"]);
        assert_eq!(names(Some("e%dx"), 3), ["e0x", "e1x", "e2x"]);
        assert_eq!(names(Some("12345678901234%d"), 20).len(), 10);
    }
}

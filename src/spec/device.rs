//! `--device HOST[:CONTAINER[:rwm]]`: a device of the host, or every device in a directory.
//!
//! It is two things to OCI: a node in `linux.devices`, and the permission to open it in
//! `linux.resources.devices`. In a user namespace nobody can make a node that works: there the host's own
//! is mounted.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxResources, Mount};

use crate::error::{Error, Result};
use crate::spec::defaults::mount;
use crate::spec::volume::destination_path;

/// A device of the host that the container may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// On the host; absolute.
    pub host: PathBuf,
    /// In the container; absolute.
    pub place: PathBuf,
    /// Some of `r`, `w` and `m`.
    pub access: String,
    /// Block or character device.
    pub kind: LinuxDeviceType,
    /// Its number.
    pub number: u64,
    /// Permissions, owner and group, as on the host.
    pub owner: (u32, u32, u32),
}

impl Device {
    /// The devices that `text` names. Looks at the host.
    pub fn find(text: &str) -> Result<Vec<Self>> {
        let what = || format!("--device {text:?}");
        let wrong = |why: &str| Error::usage(what(), why).hint("write HOST[:CONTAINER[:rwm]]");
        let (host, place, access) = parse(text).map_err(wrong)?;
        let metadata = host.metadata().map_err(|error| Error::io("device", host, &error))?;
        let place = destination_path(place).map_err(wrong)?;
        let mut devices = Vec::new();
        if metadata.is_dir() {
            collect(host, &place, access, &mut devices)?;
        } else {
            devices.extend(Self::of(host, &place, access, &metadata));
        }
        if devices.is_empty() {
            let why = if metadata.is_dir() { "there is no device in it" } else { "is not a device" };
            return Err(Error::failed(format!("device {}", host.display()), why));
        }
        Ok(devices)
    }

    fn of(host: &Path, place: &Path, access: &str, metadata: &std::fs::Metadata) -> Option<Self> {
        let kind = match metadata.file_type() {
            kind if kind.is_block_device() => LinuxDeviceType::B,
            kind if kind.is_char_device() => LinuxDeviceType::C,
            _ => return None,
        };
        Some(Self {
            host: host.to_owned(),
            place: place.to_owned(),
            access: access.to_owned(),
            kind,
            number: metadata.rdev(),
            owner: (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()),
        })
    }

    fn numbers(&self) -> (i64, i64) {
        (rustix::fs::major(self.number).into(), rustix::fs::minor(self.number).into())
    }

    fn node(&self) -> LinuxDevice {
        let ((major, minor), (mode, uid, gid)) = (self.numbers(), self.owner);
        let mut node = LinuxDevice::default();
        node.set_path(self.place.clone())
            .set_typ(self.kind)
            .set_major(major)
            .set_minor(minor)
            .set_file_mode(Some(mode))
            .set_uid(Some(uid))
            .set_gid(Some(gid));
        node
    }

    fn permission(&self) -> LinuxDeviceCgroup {
        let (major, minor) = self.numbers();
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true)
            .set_typ(Some(self.kind))
            .set_major(Some(major))
            .set_minor(Some(minor))
            .set_access(Some(self.access.clone()));
        rule
    }
}

/// Host, container and access.
fn parse(text: &str) -> Result<(&Path, &str, &str), &'static str> {
    let is_access = |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
    let parts: Vec<_> = text.split(':').collect();
    let (host, place, access) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, access] if is_access(access) => (host, host, access),
        [host, place] => (host, place, "rwm"),
        [host, place, access] if is_access(access) => (host, place, access),
        [_, _, _] => return Err("its access is not made of r, w and m"),
        _ => return Err("has too many parts"),
    };
    match Path::new(host).is_absolute() {
        true => Ok((Path::new(host), place, access)),
        false => Err("the host's path is not absolute"),
    }
}

/// Every device in `dir` and below; links are left out.
fn collect(dir: &Path, place: &Path, access: &str, devices: &mut Vec<Device>) -> Result<()> {
    let failed = |error: std::io::Error| Error::io("read", dir, &error);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, place) = (entry.path(), place.join(entry.file_name()));
        // It may be gone again: devices come and go.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            collect(&path, &place, access, devices)?;
        } else {
            devices.extend(Device::of(&path, &place, access, &metadata));
        }
    }
    Ok(())
}

/// Puts `devices` into `linux`; in a user namespace, as the mounts that are returned.
pub(super) fn grant(devices: &[Device], userns: bool, linux: &mut Linux) -> Vec<Mount> {
    if devices.is_empty() {
        return Vec::new();
    }
    // A default would bring a rule of its own.
    let none = || {
        let mut resources = LinuxResources::default();
        resources.set_devices(None);
        resources
    };
    let mut resources = linux.resources().clone().unwrap_or_else(none);
    let mut rules = resources.devices().clone().unwrap_or_default();
    rules.extend(devices.iter().map(Device::permission));
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    if userns {
        let options = ["bind", "rprivate", "nosuid", "noexec"].map(str::to_owned);
        return devices.iter().map(|device| mount(&device.place, "bind", &device.host, &options)).collect();
    }
    let mut nodes = linux.devices().clone().unwrap_or_default();
    nodes.extend(devices.iter().map(Device::node));
    linux.set_devices(Some(nodes));
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_device_is_where_and_for_what_it_was_asked() {
        let one = |text: &str| Device::find(text).map(|devices| devices[0].clone());
        let null = one("/dev/null").unwrap();
        assert_eq!(
            (null.numbers(), null.place.as_path(), null.access.as_str()),
            ((1, 3), Path::new("/dev/null"), "rwm")
        );
        assert_eq!(one("/dev/null:r").unwrap().access, "r");
        let elsewhere = one("/dev/null:/dev/x/y:rw").unwrap();
        assert_eq!((elsewhere.place.as_path(), elsewhere.access.as_str()), (Path::new("/dev/x/y"), "rw"));
        for wrong in [
            "",
            "null",
            "/dev/null:x",
            "/dev/null:/x:rwx",
            "/a:/b:r:w",
            "/dev/null:/../x",
            "/no/such",
            "/etc/passwd",
        ] {
            assert!(one(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_breaks_the_parser(text in "[a-z:/]{0,20}") {
            let _ = parse(&text);
        }
    }
}

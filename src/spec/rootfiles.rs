//! `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname` for a root that the container cannot
//! or must not have written: generated beside `spec.json`, and mounted over.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::XattrFlags;

use crate::error::{Error, Result};
use crate::spec::host::Host;
use crate::spec::options::Network;

/// One generated file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootFile {
    /// Its name in the container's durable directory, and under `/etc`.
    pub name: &'static str,
    /// What it says.
    pub content: String,
}

impl RootFile {
    /// Writes it into `dir`, readable for every user of the container, and with the SELinux label of its files.
    pub fn write_into(&self, dir: &Path, label: Option<&str>) -> Result<()> {
        let path = dir.join(self.name);
        let written = std::fs::write(&path, &self.content)
            .and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o644)));
        written.map_err(|error| Error::io("write", &path, &error))?;
        if let Some(label) = label {
            // A file system without labels has one for all; whether there is such a label is said later.
            let _ = rustix::fs::setxattr(&path, "security.selinux", label.as_bytes(), XattrFlags::empty());
        }
        Ok(())
    }
}

/// Their names under `/etc`.
pub const NAMES: [&str; 3] = ["resolv.conf", "hosts", "hostname"];

/// The files of a container with this `hostname` and `network`.
pub(super) fn generate(hostname: &str, network: &Network, host: &Host) -> [RootFile; 3] {
    let (resolv_conf, hosts) = match network {
        Network::None => (String::new(), hosts("", hostname)),
        Network::Host | Network::Path(_) => (host.resolv_conf.clone(), hosts(&host.hosts, hostname)),
    };
    let [resolv, hosts_name, hostname_name] = NAMES;
    [
        RootFile { name: resolv, content: resolv_conf },
        RootFile { name: hosts_name, content: hosts },
        RootFile { name: hostname_name, content: format!("{hostname}\n") },
    ]
}

/// The host's file, or the least that works, where the container finds its own name too.
fn hosts(hosts: &str, hostname: &str) -> String {
    let mut text = match hosts.trim() {
        "" => "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned(),
        _ => hosts.to_owned(),
    };
    let entry = |line: &str| line.split('#').next().unwrap_or_default().to_owned();
    let known = text.lines().any(|line| entry(line).split_whitespace().skip(1).any(|name| name == hostname));
    if !known {
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("127.0.1.1\t{hostname}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_of_the_container_may_read_a_file() {
        let dir = tempfile::tempdir().unwrap();
        RootFile { name: "hosts", content: "x".into() }.write_into(dir.path(), None).unwrap();
        let mode = dir.path().join("hosts").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

    #[test]
    fn the_container_finds_its_own_name_once() {
        assert_eq!(hosts("10.0.0.1 a # c", "c"), "10.0.0.1 a # c\n127.0.1.1\tc\n");
        assert_eq!(hosts("10.0.0.1 a c\n", "c"), "10.0.0.1 a c\n");
        assert!(hosts("", "c").contains("localhost"));
    }
}

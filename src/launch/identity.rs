//! Users and groups by name, as the container's own `/etc/passwd` and `/etc/group` have them.
//!
//! Both files belong to the container: they are opened inside its root, must be regular, are read
//! up to a bound, and a line that is not well-formed says nothing.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::root;
use crate::error::{Error, Result};

/// More than any real one; a container cannot make its reader's memory grow.
const MAX_FILE: u64 = 16 << 20;

/// Who a process shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// By number: nothing is looked up but HOME.
    Numbers { uid: u32, gid: u32, groups: Vec<u32> },
    /// `USER[:GROUP]`, each by name or number.
    Named(String),
}

impl Who {
    /// Whether no name has to be looked up for it.
    fn is_number(&self) -> bool {
        let is_number = |text: &str| text.parse::<u32>().is_ok();
        match self {
            Self::Numbers { .. } => true,
            Self::Named(text) => text.split(':').all(is_number),
        }
    }
}

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

/// One line of `passwd(5)`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// Finds `who` in the files below `root`; `more` are groups on top of those, by name or number.
pub(super) fn resolve(who: &Who, more: &[String], root: impl AsFd) -> Result<Identity> {
    // What the container has made of its files must not keep out who needs none of them.
    let passwd = match read(&root, "etc/passwd") {
        Err(_) if who.is_number() => String::new(),
        other => other?,
    };
    // The groups matter only to a name.
    let group = match who {
        Who::Numbers { .. } if more.is_empty() => String::new(),
        _ => match read(&root, "etc/group") {
            Err(_) if who.is_number() && more.iter().all(|name| name.parse::<u32>().is_ok()) => String::new(),
            other => other?,
        },
    };
    let mut identity = find(who, &passwd, &group)?;
    for name in more {
        let gid = group_named(name, &group)?;
        if !identity.groups.contains(&gid) {
            identity.groups.push(gid);
        }
    }
    // To the system calls that change them, this number means "leave it as it is": root.
    if identity.uid == u32::MAX || identity.gid == u32::MAX || identity.groups.contains(&u32::MAX) {
        return Err(Error::failed("user 4294967295", "is not a user or group ID that Linux knows"));
    }
    Ok(identity)
}

fn read(root: &impl AsFd, path: &str) -> Result<String> {
    let what = |errno| Error::os(format!("read /{path} of the container"), errno);
    // Not blocking: it might be a FIFO.
    let fd = match root::open(root, path.as_ref(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        other => other.map_err(what)?,
    };
    let stat = rustix::fs::fstat(&fd).map_err(what)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::failed(format!("read /{path} of the container"), "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::from(fd).take(MAX_FILE).read_to_end(&mut bytes).map_err(|error| Error::io("read", path, &error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn find(who: &Who, passwd: &str, group: &str) -> Result<Identity> {
    let home_of = |uid| users(passwd).find(|user| user.uid == uid).map(|user| user.home);
    let no_home = || "/".to_owned();
    let text = match who {
        Who::Numbers { uid, gid, groups } => {
            let home = home_of(*uid).unwrap_or_else(no_home);
            return Ok(Identity { uid: *uid, gid: *gid, groups: groups.clone(), home });
        }
        Who::Named(text) => text,
    };
    let (user, group_name) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text.as_str(), None),
    };
    // A number is that number, whoever an image calls by it (CVE-2026-30892).
    let entry = match user.parse::<u32>() {
        Ok(uid) => users(passwd).find(|entry| entry.uid == uid),
        Err(_) if user.is_empty() && group_name.is_some() => users(passwd).find(|entry| entry.uid == 0),
        Err(_) => match users(passwd).find(|entry| entry.name == user) {
            None => return Err(missing("user", user, "/etc/passwd")),
            found => found,
        },
    };
    let uid = entry.as_ref().map_or_else(|| user.parse().unwrap_or(0), |entry| entry.uid);
    let (gid, supplementary) = match group_name {
        Some(name) => {
            // With a group of one's choice goes nothing but that group.
            (group_named(name, group)?, Vec::new())
        }
        None => {
            let name = entry.as_ref().map(|entry| entry.name.as_str());
            let member = |list: &str| list.split(',').any(|member| Some(member.trim()) == name);
            let supplementary = groups(group).filter(|entry| member(entry.2)).map(|entry| entry.1).collect();
            (entry.as_ref().map_or(0, |entry| entry.gid), supplementary)
        }
    };
    let home = entry.map(|entry| entry.home).unwrap_or_else(no_home);
    Ok(Identity { uid, gid, groups: supplementary, home })
}

/// The group `name`, or the one with that number.
fn group_named(name: &str, group: &str) -> Result<u32> {
    let named = || groups(group).find(|entry| entry.0 == name).map(|entry| entry.1);
    name.parse().ok().or_else(named).ok_or_else(|| missing("group", name, "/etc/group"))
}

fn missing(what: &str, name: &str, file: &str) -> Error {
    Error::failed(format!("{what} {name}"), format!("no such {what} in {file} of the container"))
        .hint("a number needs no entry there")
}

/// The well-formed lines: `name:password:uid:gid:comment:home:shell`.
fn users(passwd: &str) -> impl Iterator<Item = User> + '_ {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1)?;
        let home = if home.starts_with('/') { home } else { "/" };
        Some(User { name, uid, gid, home: home.to_owned() })
    })
}

/// The well-formed lines: `name:password:gid:members`.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> + '_ {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some((name, fields.nth(1)?.parse().ok()?, fields.next()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        broken\nalso:x:broken:1::/:\n\
        web:x:33:34::/var/www:/bin/sh\n1000:x:7:7::/seven:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:4:other,web\nbad:x:y:web\n";

    fn named(text: &str) -> Result<Identity> {
        find(&Who::Named(text.to_owned()), PASSWD, GROUP)
    }

    #[test]
    fn a_user_by_name_has_the_groups_that_name_it() {
        let expected = Identity { uid: 33, gid: 34, groups: vec![4], home: "/var/www".into() };
        assert_eq!(named("web").unwrap(), expected);
        assert_eq!(named("33").unwrap(), expected, "a number that has an entry is that user");
    }

    #[test]
    fn a_chosen_group_is_the_only_one() {
        let identity = named("web:logs").unwrap();
        assert_eq!((identity.uid, identity.gid, identity.groups), (33, 4, vec![]));
        assert_eq!(named("5:6").unwrap(), Identity { uid: 5, gid: 6, groups: vec![], home: "/".into() });
    }

    #[test]
    fn a_number_is_that_number_whoever_an_image_calls_by_it() {
        assert_eq!(named("1000").unwrap().uid, 1000);
        assert_eq!(named("1001").unwrap().uid, 1001);
    }

    #[test]
    fn who_is_not_there_is_said_by_name() {
        assert_eq!(named("nobody").unwrap_err().what, "user nobody");
        assert_eq!(named("web:none").unwrap_err().what, "group none");
    }

    proptest! {
        #[test]
        fn no_file_breaks_the_look_up(passwd: String, group: String, who: String) {
            let _ = find(&Who::Named(who), &passwd, &group);
        }

        #[test]
        fn numbers_are_taken_as_they_are(uid: u32, gid: u32, groups: Vec<u32>) {
            let found = find(&Who::Numbers { uid, gid, groups: groups.clone() }, PASSWD, GROUP).unwrap();
            prop_assert_eq!((found.uid, found.gid, found.groups), (uid, gid, groups));
        }
    }
}

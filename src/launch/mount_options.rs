//! The options of a mount as `mount(8)` and OCI name them, sorted by who understands them: the
//! mount (`mount_setattr`), its propagation, or the file system (`fsconfig`).

use nix::libc;

use crate::sys::mount::{self, MountAttr};

/// What the options of one mount say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// `bind` or `rbind`: the source is a file or directory of the host.
    pub(super) bind: bool,
    /// `rbind`: with all mounts below.
    pub(super) recursive: bool,
    /// What the mount itself allows, and its propagation.
    pub(super) attr: MountAttr,
    /// What the mounts below it allow, where they come along.
    pub(super) below: MountAttr,
    /// `rprivate` and the like: propagation of all mounts below, too.
    pub(super) recursive_propagation: bool,
    /// `idmap`, `ridmap`: files are shown with other owners.
    pub(super) idmap: Option<Idmap>,
    /// `tmpcopyup`: a new tmpfs begins with what the root filesystem has there.
    pub(super) copy_up: bool,
    /// `remount`: what is mounted there already is changed.
    pub(super) remount: bool,
    /// What the file system understands: `key`, or `key=value`.
    pub(super) data: Vec<(String, Option<String>)>,
}

/// How far an idmapped mount goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idmap {
    /// This mount only.
    Here,
    /// With all mounts below.
    Recursive,
}

/// Of a file system as a whole: a bind mount has no say in them.
const SUPERBLOCK: [&str; 7] = ["sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand"];

/// Every option that is understood here, for whoever asks what podrun can do. What is not among them is
/// handed to the file system.
pub const KNOWN: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// Sorts `options`; a later one overrides an earlier one.
pub(super) fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Options {
    let mut parsed = Options::default();
    for option in options {
        parsed.take(option);
    }
    if parsed.remount && parsed.bind {
        // Of the mount alone, and there is no source. What the file system would take is passed over, as by
        // `mount(2)`: it may be the host's.
        parsed.bind = false;
        parsed.data.clear();
    }
    parsed
}

impl Options {
    fn take(&mut self, option: &str) {
        match option {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "private" | "rprivate" => self.propagation(option, libc::MS_PRIVATE),
            "slave" | "rslave" => self.propagation(option, libc::MS_SLAVE),
            "shared" | "rshared" => self.propagation(option, libc::MS_SHARED),
            "unbindable" | "runbindable" => self.propagation(option, libc::MS_UNBINDABLE),
            "idmap" => self.idmap = Some(Idmap::Here),
            "ridmap" => self.idmap = Some(Idmap::Recursive),
            "tmpcopyup" => self.copy_up = true,
            "notmpcopyup" => self.copy_up = false,
            "remount" => self.remount = true,
            // Words that say nothing, or only something to a tool.
            "" | "defaults" | "z" | "Z" | "U" | "copyup" | "nocopyup" | "silent" | "loud" => {}
            // A file system either counts the versions of its files or does not: none can be told to any more.
            "iversion" | "noiversion" => {}
            _ if self.attribute(option, false) => {}
            _ if option.strip_prefix('r').is_some_and(|option| self.attribute(option, true)) => {}
            _ => self.data.push(match option.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (option.to_owned(), None),
            }),
        }
    }

    /// Takes an attribute of the mount. False for a word that is none.
    fn attribute(&mut self, option: &str, recursive: bool) -> bool {
        match option {
            "ro" => self.set(mount::RDONLY),
            "nosuid" => self.set(mount::NOSUID),
            "nodev" => self.set(mount::NODEV),
            "noexec" => self.set(mount::NOEXEC),
            "nodiratime" => self.set(mount::NODIRATIME),
            "nosymfollow" => self.set(mount::NOSYMFOLLOW),
            "rw" => self.clear(mount::RDONLY, recursive),
            "suid" => self.clear(mount::NOSUID, recursive),
            "dev" => self.clear(mount::NODEV, recursive),
            "exec" => self.clear(mount::NOEXEC, recursive),
            "diratime" => self.clear(mount::NODIRATIME, recursive),
            "symfollow" => self.clear(mount::NOSYMFOLLOW, recursive),
            "noatime" => self.access_time(mount::NOATIME, recursive),
            "strictatime" => self.access_time(mount::STRICTATIME, recursive),
            "relatime" | "atime" => self.access_time(0, recursive),
            // What they take back leaves the kernel's own way, which is `relatime`; `noatime` stays.
            "nostrictatime" if self.attr.set & mount::ATIME != mount::NOATIME => {
                self.access_time(0, recursive)
            }
            "nostrictatime" | "norelatime" => {}
            _ => return false,
        }
        true
    }

    /// The option that no bind mount understands, where there is one.
    pub(super) fn unknown_to_bind(&self) -> Option<&str> {
        let unknown = self.data.iter().find(|(key, _)| !SUPERBLOCK.contains(&key.as_str()));
        unknown.map(|(key, _)| key.as_str())
    }

    /// What is forbidden is forbidden below, too.
    fn set(&mut self, flag: u64) {
        for attr in [&mut self.attr, &mut self.below] {
            attr.set |= flag;
            attr.clear &= !flag;
        }
    }

    /// What is allowed is allowed only here unless said otherwise, or `rw` would open what the host
    /// had closed further down.
    fn clear(&mut self, flag: u64, recursive: bool) {
        self.attr.clear |= flag;
        self.attr.set &= !flag;
        self.below.set &= !flag;
        if recursive {
            self.below.clear |= flag;
        }
    }

    /// The access time modes are one field, not flags: the kernel wants all of it cleared first.
    fn access_time(&mut self, mode: u64, recursive: bool) {
        let attrs = [&mut self.attr, &mut self.below];
        for attr in attrs.into_iter().take(if recursive { 2 } else { 1 }) {
            attr.set = attr.set & !mount::ATIME | mode;
            attr.clear |= mount::ATIME;
        }
    }

    /// The mounts below tell the host no more than the mount itself does.
    fn propagation(&mut self, option: &str, kind: libc::c_ulong) {
        self.attr.propagation = kind;
        self.recursive_propagation = option.starts_with('r') || matches!(option, "private" | "slave");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_word_that_is_said_to_be_known_is() {
        for word in KNOWN {
            let parsed = parse([*word]);
            assert!(parsed.data.iter().all(|(key, _)| SUPERBLOCK.contains(&key.as_str())), "{word}");
        }
        assert!(KNOWN.is_sorted());
        assert!(SUPERBLOCK.iter().all(|word| KNOWN.contains(word)));
    }

    #[test]
    fn the_last_word_counts() {
        assert_eq!(parse(["ro", "rw"]).attr, MountAttr { clear: mount::RDONLY, ..MountAttr::default() });
        assert_eq!(parse(["rw", "ro"]).attr, MountAttr { set: mount::RDONLY, ..MountAttr::default() });
        let atime = parse(["noatime", "strictatime"]).attr;
        assert_eq!((atime.set, atime.clear), (mount::STRICTATIME, mount::ATIME));
    }

    #[test]
    fn what_is_taken_back_leaves_the_kernels_own_way() {
        let of = |options: &[&'static str]| parse(options.iter().copied()).attr.set & mount::ATIME;
        assert_eq!(of(&["strictatime", "nostrictatime"]), 0);
        assert_eq!(of(&["noatime", "nostrictatime"]), mount::NOATIME);
        assert_eq!(of(&["noatime", "norelatime"]), mount::NOATIME);
        let below = parse(["rbind", "rnostrictatime"]).below;
        assert_eq!((below.set, below.clear), (0, mount::ATIME));
    }

    #[test]
    fn a_remount_has_no_source() {
        let parsed = parse(["remount", "bind", "ro"]);
        assert!(parsed.remount && !parsed.bind && parsed.attr.set == mount::RDONLY);
        let of = |options: &[&'static str]| parse(options.iter().copied()).data.len();
        // The mount is the container's, the file system below it is not.
        assert_eq!((of(&["bind", "size=1m", "remount"]), of(&["remount", "size=1m"])), (0, 1));
    }

    #[test]
    fn a_recursive_word_reaches_the_mounts_below() {
        let of = |option| parse(["rbind", option]).below;
        assert_eq!(of("rro").set, mount::RDONLY);
        assert_eq!(of("ro").set, mount::RDONLY, "what is forbidden is forbidden below");
        assert_eq!(of("rw"), MountAttr::default(), "what the host closed stays closed");
        assert_eq!(of("rrw").clear, mount::RDONLY);
        assert_eq!((of("rnoatime").set, of("noatime").set), (mount::NOATIME, 0));
    }

    #[test]
    fn a_bind_mount_knows_its_own_words_only() {
        assert_eq!(parse(["rbind", "rro", "rslave", "sync", "idmap"]).unknown_to_bind(), None);
        for unknown in ["rocks", "size=5", "r", "rrro"] {
            assert!(parse(["bind", unknown]).unknown_to_bind().is_some(), "{unknown}");
        }
    }

    #[test]
    fn what_the_mount_does_not_know_is_the_file_systems() {
        let parsed = parse(["nosuid", "size=64k", "newinstance", "mode=1777"]);
        assert_eq!(parsed.attr.set, mount::NOSUID);
        let data: Vec<_> = parsed.data.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        assert_eq!(data, [("size", Some("64k")), ("newinstance", None), ("mode", Some("1777"))]);
    }

    proptest! {
        #[test]
        fn no_attribute_is_both_set_and_cleared(options in prop::collection::vec(
            prop::sample::select(vec!["ro", "rw", "rro", "rrw", "suid", "dev", "rdev", "nodev", "exec", "noexec"]), 0..9,
        )) {
            let parsed = parse(options);
            prop_assert_eq!(parsed.attr.set & parsed.attr.clear, 0);
            prop_assert_eq!(parsed.below.set & parsed.below.clear, 0);
        }
    }
}

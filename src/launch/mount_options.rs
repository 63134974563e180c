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
    /// What the mount itself allows.
    pub(super) attr: MountAttr,
    /// `rprivate` and the like: propagation of all mounts below, too.
    pub(super) recursive_propagation: bool,
    /// What the file system understands: `key`, or `key=value`.
    pub(super) data: Vec<(String, Option<String>)>,
}

/// Sorts `options`; a later one overrides an earlier one.
pub(super) fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Options {
    let mut parsed = Options::default();
    for option in options {
        parsed.take(option);
    }
    parsed
}

impl Options {
    fn take(&mut self, option: &str) {
        match option {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "ro" | "rro" => self.set(mount::RDONLY),
            "nosuid" | "rnosuid" => self.set(mount::NOSUID),
            "nodev" | "rnodev" => self.set(mount::NODEV),
            "noexec" | "rnoexec" => self.set(mount::NOEXEC),
            "nodiratime" | "rnodiratime" => self.set(mount::NODIRATIME),
            "nosymfollow" | "rnosymfollow" => self.set(mount::NOSYMFOLLOW),
            "rw" | "rrw" => self.clear(mount::RDONLY),
            "suid" | "rsuid" => self.clear(mount::NOSUID),
            "dev" | "rdev" => self.clear(mount::NODEV),
            "exec" | "rexec" => self.clear(mount::NOEXEC),
            "diratime" | "rdiratime" => self.clear(mount::NODIRATIME),
            "symfollow" | "rsymfollow" => self.clear(mount::NOSYMFOLLOW),
            "noatime" | "rnoatime" => self.access_time(mount::NOATIME),
            "strictatime" | "rstrictatime" => self.access_time(mount::STRICTATIME),
            "relatime" | "rrelatime" | "atime" | "ratime" => self.access_time(0),
            "private" | "rprivate" => self.propagation(option, libc::MS_PRIVATE),
            "slave" | "rslave" => self.propagation(option, libc::MS_SLAVE),
            "shared" | "rshared" => self.propagation(option, libc::MS_SHARED),
            "unbindable" | "runbindable" => self.propagation(option, libc::MS_UNBINDABLE),
            // Words that say nothing, or only something to a tool.
            "" | "defaults" | "z" | "Z" | "U" | "tmpcopyup" | "copyup" | "nocopyup" => {}
            _ => self.data.push(match option.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (option.to_owned(), None),
            }),
        }
    }

    fn set(&mut self, flag: u64) {
        self.attr.set |= flag;
        self.attr.clear &= !flag;
    }

    fn clear(&mut self, flag: u64) {
        self.attr.clear |= flag;
        self.attr.set &= !flag;
    }

    /// The access time modes are one field, not flags: the kernel wants all of it cleared first.
    fn access_time(&mut self, mode: u64) {
        self.attr.set = self.attr.set & !mount::ATIME | mode;
        self.attr.clear |= mount::ATIME;
    }

    fn propagation(&mut self, option: &str, kind: libc::c_ulong) {
        self.attr.propagation = kind;
        self.recursive_propagation = option.starts_with('r');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_word_counts() {
        assert_eq!(parse(["ro", "rw"]).attr, MountAttr { clear: mount::RDONLY, ..MountAttr::default() });
        assert_eq!(parse(["rw", "ro"]).attr, MountAttr { set: mount::RDONLY, ..MountAttr::default() });
        let atime = parse(["noatime", "strictatime"]).attr;
        assert_eq!((atime.set, atime.clear), (mount::STRICTATIME, mount::ATIME));
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
            prop::sample::select(vec!["ro", "rw", "nosuid", "suid", "dev", "nodev", "exec", "noexec"]), 0..9,
        )) {
            let attr = parse(options).attr;
            prop_assert_eq!(attr.set & attr.clear, 0);
        }
    }
}

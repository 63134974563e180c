//! What of the host, or of memory, is mounted in a container: `--volume SRC:DST[:opts]` and
//! `--tmpfs DST[:opts]`. `--mount` says the same in other words: see [`mount_flag`](super::mount_flag).

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, Mount};

use crate::error::{Error, Result};
use crate::spec::defaults::mount;
use crate::spec::idmap;

/// A directory or file of the host, in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// On the host; absolute.
    pub source: PathBuf,
    /// In the container; absolute.
    pub destination: PathBuf,
    /// As OCI writes them.
    pub options: Vec<String>,
    /// How the owners of the files are shown, for users and for groups; with the option `idmap` and
    /// without this, as the container's user namespace has it.
    pub mappings: Option<[Vec<LinuxIdMapping>; 2]>,
}

impl Volume {
    /// The volume that `text` describes; a relative source is one below `base`.
    pub fn parse(text: &str, base: &Path) -> Result<Self> {
        let wrong = |why: String| {
            Error::usage(format!("--volume {text:?}"), why).hint("write SOURCE:DESTINATION[:ro,nosuid,…]")
        };
        let mut parts = text.splitn(3, ':');
        let (source, destination) = match (parts.next(), parts.next()) {
            (Some(source), Some(destination)) if !source.is_empty() => (source, destination),
            _ => return Err(wrong("needs a source and a destination".to_owned())),
        };
        let mut bind = Bind::default();
        for option in parts.next().into_iter().flat_map(|options| options.split(',')) {
            bind.take(option).map_err(|error| Error { what: format!("--volume {text:?}"), ..error })?;
        }
        bind.volume(source, destination, base).map_err(|why| wrong(why.to_owned()))
    }

    /// The OCI mount.
    pub fn mount(&self) -> Mount {
        let mut mount = mount(&self.destination, "bind", &self.source, &self.options);
        if let Some([uids, gids]) = &self.mappings {
            mount.set_uid_mappings(Some(uids.clone())).set_gid_mappings(Some(gids.clone()));
        }
        mount
    }
}

/// The options of a bind mount while they are read; of those that exclude each other the last counts.
#[derive(Debug)]
pub(super) struct Bind {
    pub(super) recursion: &'static str,
    propagation: String,
    access: String,
    flags: Vec<String>,
    mappings: Option<[Vec<LinuxIdMapping>; 2]>,
}

impl Default for Bind {
    fn default() -> Self {
        Self {
            recursion: "rbind",
            propagation: "rprivate".to_owned(),
            access: "rw".to_owned(),
            flags: Vec::new(),
            mappings: None,
        }
    }
}

impl Bind {
    /// Takes one option, as `mount(8)` and engines name them.
    pub(super) fn take(&mut self, option: &str) -> Result<()> {
        let wrong = |why: String| Error::usage("mount", why);
        match option {
            "ro" | "rw" | "rro" | "rrw" => self.access = option.to_owned(),
            "bind" => self.recursion = "bind",
            "rbind" => self.recursion = "rbind",
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" | "unbindable"
            | "runbindable" => self.propagation = option.to_owned(),
            "idmap" | "ridmap" => self.flags.push(option.to_owned()),
            // Hints to file sharing on other systems: to Linux they say nothing.
            "cached" | "delegated" | "consistent" => {}
            "z" | "Z" if !selinux() => {}
            "z" | "Z" => {
                return Err(wrong(format!(
                    "option {option:?} would relabel the files, which podrun does not do"
                ))
                .hint("chcon -Rt container_file_t SOURCE gives them the label"));
            }
            "U" => {
                return Err(wrong("option \"U\" would change the owner of the files".to_owned())
                    .hint("`idmap` shows them with the owner the container expects, and changes nothing"));
            }
            _ if is_attribute(option) => {
                let opposite = opposite(option);
                self.flags.retain(|old| *old != opposite && old != option);
                self.flags.push(option.to_owned());
            }
            _ => match option.split_once('=') {
                Some((name @ ("idmap" | "ridmap"), text)) => {
                    self.mappings = Some(mappings(text)?);
                    self.flags.push(name.to_owned());
                }
                _ => return Err(wrong(format!("option {option:?} is unknown")).hint(
                    "ro, rro, rw, bind, rbind, nosuid, nodev, noexec, noatime, private, shared, slave, idmap",
                )),
            },
        }
        Ok(())
    }

    pub(super) fn volume(self, source: &str, destination: &str, base: &Path) -> Result<Volume, &'static str> {
        let options = [self.recursion.to_owned(), self.propagation, self.access].into_iter();
        Ok(Volume {
            source: base.join(source),
            destination: destination_path(destination)?,
            options: options.chain(self.flags).collect(),
            mappings: self.mappings,
        })
    }
}

/// `idmap=uids=FILES-HOST-SIZE[#…];gids=…`, as podman and crun write it.
fn mappings(text: &str) -> Result<[Vec<LinuxIdMapping>; 2]> {
    let what = || format!("idmap {text:?}");
    let wrong = || Error::usage(what(), "is not uids=0-1000-1;gids=0-1000-1");
    let mut found = [Vec::new(), Vec::new()];
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let (name, ranges) = part.split_once('=').ok_or_else(wrong)?;
        let index = ["uids", "gids"].iter().position(|known| *known == name).ok_or_else(wrong)?;
        for range in ranges.split('#') {
            found[index].push(idmap::range(range, '-').ok_or_else(wrong)?);
        }
    }
    for ranges in &found {
        idmap::check(&what(), ranges)?;
    }
    Ok(found)
}

/// Whether the host has SELinux: without it a label means nothing.
fn selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// What a mount may allow or forbid; with an `r` before it, that and all mounts below it.
fn is_attribute(option: &str) -> bool {
    let known = |option: &str| {
        matches!(
            option,
            "nosuid"
                | "suid"
                | "nodev"
                | "dev"
                | "noexec"
                | "exec"
                | "noatime"
                | "atime"
                | "relatime"
                | "strictatime"
                | "nodiratime"
                | "diratime"
                | "nosymfollow"
                | "symfollow"
        )
    };
    known(option) || option.strip_prefix('r').is_some_and(known)
}

/// The word that says the opposite.
fn opposite(option: &str) -> String {
    option.strip_prefix("no").map_or_else(|| format!("no{option}"), str::to_owned)
}

/// A path in the container as it may be mounted on: absolute, without `.` and `..`, not the root.
pub(super) fn destination_path(text: &str) -> Result<PathBuf, &'static str> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err("the destination is not an absolute path");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("the destination has a .. in it");
    }
    let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    if path == Path::new("/") { Err("the destination is the root itself") } else { Ok(path) }
}

/// The OCI mount that the argument `text` of `--tmpfs` describes.
pub fn tmpfs(text: &str) -> Result<Mount> {
    let (destination, rest) = text.split_once(':').map_or((text, None), |(path, rest)| (path, Some(rest)));
    let options = rest.into_iter().flat_map(|options| options.split(','));
    tmpfs_on(destination, options).map_err(|why| {
        Error::usage(format!("--tmpfs {text:?}"), why).hint("write DESTINATION[:size=64m,mode=1777,…]")
    })
}

/// The OCI mount of a tmpfs on `destination`, or why it cannot be.
pub(super) fn tmpfs_on<'a>(
    destination: &str,
    wanted: impl IntoIterator<Item = &'a str>,
) -> Result<Mount, String> {
    let destination = destination_path(destination)?;
    let mut options: Vec<String> = ["nosuid", "nodev", "noexec"].map(str::to_owned).into();
    for option in wanted {
        let legal = match option.split_once('=') {
            None => matches!(option, "ro" | "rw" | "tmpcopyup" | "notmpcopyup") || is_attribute(option),
            Some(("size" | "nr_inodes" | "nr_blocks", size)) => is_size(size),
            Some(("mode", mode)) => !mode.is_empty() && mode.len() <= 5 && is_octal(mode),
            Some(("uid" | "gid", id)) => id.parse::<u32>().is_ok(),
            Some(_) => false,
        };
        if !legal {
            return Err(format!("option {option:?} is unknown or has a wrong value"));
        }
        let opposite = opposite(option);
        options.retain(|old| *old != opposite && old != option);
        options.push(option.to_owned());
    }
    Ok(mount(&destination, "tmpfs", Path::new("tmpfs"), &options))
}

fn is_octal(text: &str) -> bool {
    text.bytes().all(|c| (b'0'..=b'7').contains(&c))
}

/// What tmpfs takes: bytes, with k, m or g, or a share of memory.
fn is_size(text: &str) -> bool {
    let number = text.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G', '%']).unwrap_or(text);
    !number.is_empty() && number.len() < 19 && number.bytes().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_volume_is_a_recursive_private_bind_unless_told_otherwise() {
        let volume = Volume::parse("data:/srv/./x/:ro,nosuid", Path::new("/home")).unwrap();
        assert_eq!(volume.source, Path::new("/home/data"));
        assert_eq!(volume.destination, Path::new("/srv/x"));
        assert_eq!(volume.options, ["rbind", "rprivate", "ro", "nosuid"]);
        let volume = Volume::parse("/a:/b:bind,rslave,nosuid,suid", Path::new("/")).unwrap();
        assert_eq!(volume.options, ["bind", "rslave", "rw", "suid"]);
    }

    #[test]
    fn an_idmapped_volume_may_have_a_map_of_its_own() {
        let volume = |text: &str| Volume::parse(text, Path::new("/"));
        assert_eq!(volume("/a:/b:idmap").unwrap().mappings, None);
        let mapped = volume("/a:/b:idmap=uids=0-1000-1#1-2000-5;gids=0-7-1").unwrap();
        assert_eq!(mapped.options, ["rbind", "rprivate", "rw", "idmap"]);
        let [uids, gids] = mapped.mappings.unwrap();
        assert_eq!(uids, [idmap::one(0, 1000, 1), idmap::one(1, 2000, 5)]);
        assert_eq!(gids, [idmap::one(0, 7, 1)]);
        for wrong in [
            "idmap=",
            "idmap=uids=0-1-1",
            "idmap=uids=x;gids=0-1-1",
            "idmap=0-1-1",
            "idmap=uids=0-1-2#1-5-1;gids=0-0-1",
        ] {
            assert!(volume(&format!("/a:/b:{wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_volume_is_refused_with_the_reason() {
        for (text, why) in [
            ("/a", "needs a source and a destination"),
            (":/b", "needs a source and a destination"),
            ("/a:b", "the destination is not an absolute path"),
            ("/a:/b/../c", "the destination has a .. in it"),
            ("/a:/", "the destination is the root itself"),
            ("/a:/b:x", "option \"x\" is unknown"),
            ("/a:/b:", "option \"\" is unknown"),
            ("/a:/b:U", "option \"U\" would change the owner of the files"),
        ] {
            assert_eq!(Volume::parse(text, Path::new("/")).unwrap_err().why, why, "{text}");
        }
    }

    #[test]
    fn a_tmpfs_is_harmless_unless_told_otherwise() {
        let options = |text| tmpfs(text).unwrap().options().clone().unwrap();
        assert_eq!(options("/t"), ["nosuid", "nodev", "noexec"]);
        assert_eq!(
            options("/t:exec,size=64m,mode=1777"),
            ["nosuid", "nodev", "exec", "size=64m", "mode=1777"]
        );
        for wrong in ["t", "/t:size=", "/t:size=x", "/t:mode=9", "/t:huge=always", "/t:"] {
            assert!(tmpfs(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_destination_cannot_leave_the_root(text in "/?[a./:]{0,12}") {
            if let Ok(volume) = Volume::parse(&format!("/s:{text}"), Path::new("/")) {
                let normal = |part| matches!(part, Component::RootDir | Component::Normal(_));
                prop_assert!(volume.destination.components().all(normal));
                prop_assert!(volume.destination.components().count() > 1);
            }
        }
    }
}

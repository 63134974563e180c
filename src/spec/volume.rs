//! `--volume SRC:DST[:opts]` and `--tmpfs DST[:opts]`.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;

use crate::error::{Error, Result};
use crate::spec::defaults::mount;

/// A directory or file of the host, in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// On the host; absolute.
    pub source: PathBuf,
    /// In the container; absolute.
    pub destination: PathBuf,
    /// As OCI writes them.
    pub options: Vec<String>,
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
        let (mut recursion, mut propagation, mut access) = ("rbind", "rprivate", "rw");
        let mut flags = Vec::new();
        for option in parts.next().into_iter().flat_map(|options| options.split(',')) {
            match option {
                "ro" | "rw" => access = option,
                "bind" | "rbind" => recursion = option,
                "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => propagation = option,
                "nosuid" | "nodev" | "noexec" => flags.push(option),
                _ => return Err(wrong(format!("option {option:?} is unknown"))),
            }
        }
        let options = [recursion, propagation, access].into_iter().chain(flags).map(str::to_owned).collect();
        let destination = destination_path(destination).map_err(|why| wrong(why.to_owned()))?;
        Ok(Self { source: base.join(source), destination, options })
    }

    /// The OCI mount.
    pub fn mount(&self) -> Mount {
        mount(&self.destination, "bind", &self.source, &self.options)
    }
}

/// A path in the container as it may be mounted on: absolute, without `.` and `..`, not the root.
fn destination_path(text: &str) -> Result<PathBuf, &'static str> {
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
    let wrong = |why: String| {
        Error::usage(format!("--tmpfs {text:?}"), why).hint("write DESTINATION[:size=64m,mode=1777,…]")
    };
    let (destination, rest) = text.split_once(':').map_or((text, None), |(path, rest)| (path, Some(rest)));
    let destination = destination_path(destination).map_err(|why| wrong(why.to_owned()))?;
    let mut options: Vec<String> = ["nosuid", "nodev", "noexec"].map(str::to_owned).into();
    for option in rest.into_iter().flat_map(|options| options.split(',')) {
        let legal = match option.split_once('=') {
            None => matches!(
                option,
                "ro" | "rw" | "nosuid" | "suid" | "nodev" | "dev" | "noexec" | "exec" | "noatime"
            ),
            Some(("size" | "nr_inodes", size)) => is_size(size),
            Some(("mode", mode)) => !mode.is_empty() && mode.len() <= 5 && is_octal(mode),
            Some(("uid" | "gid", id)) => id.parse::<u32>().is_ok(),
            Some(_) => false,
        };
        if !legal {
            return Err(wrong(format!("option {option:?} is unknown or has a wrong value")));
        }
        let opposite = match option {
            "suid" | "dev" | "exec" => format!("no{option}"),
            _ => option.strip_prefix("no").unwrap_or_default().to_owned(),
        };
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
        let volume = Volume::parse("/a:/b:bind,rslave", Path::new("/")).unwrap();
        assert_eq!(volume.options, ["bind", "rslave", "rw"]);
    }

    #[test]
    fn a_wrong_volume_is_refused_with_the_reason() {
        for (text, why) in [
            ("/a", "needs a source and a destination"),
            (":/b", "needs a source and a destination"),
            ("/a:b", "the destination is not an absolute path"),
            ("/a:/b/../c", "the destination has a .. in it"),
            ("/a:/", "the destination is the root itself"),
            ("/a:/b:z", "option \"z\" is unknown"),
            ("/a:/b:", "option \"\" is unknown"),
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

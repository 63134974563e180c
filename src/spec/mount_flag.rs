//! `--mount type=…,source=…,target=…`, as docker and podman take it.

use std::path::Path;

use oci_spec::runtime::Mount;

use crate::error::{Error, Result};
use crate::spec::volume::{Bind, Volume, tmpfs_on};

/// What a `--mount` asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum MountFlag {
    /// A file or directory of the host.
    Bind(Volume),
    /// An empty file system in memory.
    Tmpfs(Mount),
}

impl MountFlag {
    /// What `text` describes; a relative source is one below `base`.
    pub fn parse(text: &str, base: &Path) -> Result<Self> {
        let what = || format!("--mount {text:?}");
        let wrong = |why: String| {
            Error::usage(what(), why)
                .hint("write type=bind,source=SRC,target=DST[,readonly] or type=tmpfs,target=DST")
        };
        let fields = fields(text).ok_or_else(|| wrong("has a quote that does not end".to_owned()))?;
        let (mut kind, mut source, mut target) = (None, None, None);
        let mut others = Vec::new();
        for field in &fields {
            let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(k, v)| (k, Some(v)));
            match (key, value) {
                ("type", Some(value)) => kind = Some(value),
                ("source" | "src", Some(value)) => source = Some(value),
                ("target" | "destination" | "dst", Some(value)) => target = Some(value),
                _ => others.push((key, value)),
            }
        }
        let target = target.ok_or_else(|| wrong("needs a target".to_owned()))?;
        match kind {
            Some("bind") => {
                let source = source.filter(|source| !source.is_empty());
                let source = source.ok_or_else(|| wrong("needs a source".to_owned()))?;
                let mut bind = Bind::default();
                for (key, value) in others {
                    let word = bind_word(key, value).map_err(wrong)?;
                    bind.take(&word).map_err(|error| Error { what: what(), ..error })?;
                }
                bind.volume(source, target, base).map(Self::Bind).map_err(|why| wrong(why.to_owned()))
            }
            Some("tmpfs") if source.is_none() => {
                let words: Result<Vec<_>, _> =
                    others.into_iter().map(|(key, value)| tmpfs_word(key, value)).collect();
                let words = words.map_err(wrong)?;
                tmpfs_on(target, words.iter().map(String::as_str)).map(Self::Tmpfs).map_err(wrong)
            }
            Some("tmpfs") => Err(wrong("a tmpfs has no source".to_owned())),
            Some("volume") => Err(Error::usage(what(), "podrun has no named volumes")
                .hint("type=bind with a directory of your own as the source")),
            Some(other) => Err(wrong(format!("type {other:?} is unknown"))),
            None => Err(wrong("needs a type".to_owned())),
        }
    }
}

/// The same option as `--volume` writes it.
fn bind_word(key: &str, value: Option<&str>) -> Result<String, String> {
    let word = match (key, value) {
        ("readonly" | "ro", _) => {
            if is_true(key, value)? {
                "ro"
            } else {
                "rw"
            }
        }
        ("rw", _) => {
            if is_true(key, value)? {
                "rw"
            } else {
                "ro"
            }
        }
        (
            "bind-propagation",
            Some(
                word @ ("private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" | "unbindable"
                | "runbindable"),
            ),
        ) => word,
        ("bind-nonrecursive", _) => {
            if is_true(key, value)? {
                "bind"
            } else {
                "rbind"
            }
        }
        ("bind-recursive", Some("enabled" | "writable")) => "rbind",
        ("bind-recursive", Some("readonly")) => "rro",
        ("bind-recursive", Some("disabled")) => "bind",
        ("relabel", Some("shared")) => "z",
        ("relabel", Some("private")) => "Z",
        ("consistency", Some(_)) => "consistent",
        ("U" | "chown", _) if is_true(key, value)? => "U",
        ("idmap" | "ridmap", Some(map)) if map != "true" => return Ok(format!("{key}={map}")),
        ("nosuid" | "suid" | "nodev" | "dev" | "noexec" | "exec" | "idmap" | "ridmap", _) => {
            if !is_true(key, value)? {
                return Err(format!("option {key:?} takes no value but true"));
            }
            key
        }
        _ => return Err(unknown(key, value)),
    };
    Ok(word.to_owned())
}

/// The same option as `--tmpfs` writes it.
fn tmpfs_word(key: &str, value: Option<&str>) -> Result<String, String> {
    Ok(match (key, value) {
        ("readonly" | "ro", _) => if is_true(key, value)? { "ro" } else { "rw" }.to_owned(),
        ("tmpfs-size" | "size", Some(value)) => format!("size={value}"),
        ("tmpfs-mode" | "mode", Some(value)) => format!("mode={value}"),
        (_, Some(value)) => format!("{key}={value}"),
        (_, None) => key.to_owned(),
    })
}

fn is_true(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        _ => Err(unknown(key, value)),
    }
}

fn unknown(key: &str, value: Option<&str>) -> String {
    let option = value.map_or_else(|| key.to_owned(), |value| format!("{key}={value}"));
    format!("option {option:?} is unknown or has a wrong value")
}

/// Comma-separated fields; one in double quotes may hold a comma, and a quote as two.
fn fields(text: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut()?;
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => field.push(c),
        }
    }
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bind(text: &str) -> Volume {
        match MountFlag::parse(text, Path::new("/base")).unwrap() {
            MountFlag::Bind(volume) => volume,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bind_says_what_a_volume_says() {
        let volume = Volume::parse("/a:/b:ro", Path::new("/")).unwrap();
        assert_eq!(bind("type=bind,source=/a,target=/b,readonly"), volume);
        assert_eq!(bind("dst=/b,src=/a,type=bind,ro=true"), volume);
        let options = |more: &str| bind(&format!("type=bind,src=x,dst=/b,{more}")).options;
        assert_eq!(options("bind-propagation=rshared"), ["rbind", "rshared", "rw"]);
        assert_eq!(options("bind-nonrecursive"), ["bind", "rprivate", "rw"]);
        assert_eq!(options("bind-recursive=readonly"), ["rbind", "rprivate", "rro"]);
        assert_eq!(options("ro=false,nodev,consistency=cached"), ["rbind", "rprivate", "rw", "nodev"]);
        assert_eq!(bind(r#"type=bind,"source=/a,b ""c""",dst=/b"#).source, Path::new(r#"/a,b "c""#));
    }

    #[test]
    fn a_tmpfs_has_a_size_and_a_mode() {
        let MountFlag::Tmpfs(mount) =
            MountFlag::parse("type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1770", Path::new("/")).unwrap()
        else {
            panic!()
        };
        assert_eq!(mount.options().clone().unwrap(), ["nosuid", "nodev", "noexec", "size=64m", "mode=1770"]);
    }

    #[test]
    fn what_is_missing_or_unknown_is_said() {
        for (text, why) in [
            ("", "needs a target"),
            ("type=bind,source=/a", "needs a target"),
            ("type=bind,target=/b", "needs a source"),
            ("source=/a,target=/b", "needs a type"),
            ("type=image,target=/b", "type \"image\" is unknown"),
            ("type=volume,source=v,target=/b", "podrun has no named volumes"),
            ("type=tmpfs,source=/a,target=/b", "a tmpfs has no source"),
            ("type=bind,source=/a,target=b", "the destination is not an absolute path"),
            ("type=bind,source=/a,target=/b,rocks", "option \"rocks\" is unknown or has a wrong value"),
            ("type=bind,source=/a,target=/b,ro=x", "option \"ro=x\" is unknown or has a wrong value"),
            ("type=tmpfs,target=/b,tmpfs-size=x", "option \"size=x\" is unknown or has a wrong value"),
            ("type=bind,\"source=/a,target=/b", "has a quote that does not end"),
        ] {
            assert_eq!(MountFlag::parse(text, Path::new("/")).unwrap_err().why, why, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_breaks_the_parser(text in "[a-z=,\"/]{0,40}") {
            let _ = MountFlag::parse(&text, Path::new("/"));
        }

        #[test]
        fn fields_come_back_as_they_were_quoted(wanted in prop::collection::vec("[a-z,\"= ]{0,9}", 1..5)) {
            let text: Vec<_> = wanted.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
            prop_assert_eq!(fields(&text.join(",")), Some(wanted));
        }
    }
}

//! What `create` and `run` may be told, as plain values: no command line, no OCI.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_spec::runtime::LinuxIdMapping;

use crate::error::{Error, Result};
use crate::spec::health::Health;
use crate::spec::idmap;
use crate::spec::limits::Limits;
use crate::spec::restart::RestartPolicy;
use crate::spec::settings::STOP_TIMEOUT;
use crate::spec::terminal::WindowSize;
use crate::spec::walls::Walls;

/// Everything that makes a supervised container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The root filesystem.
    pub rootfs: Rootfs,
    /// The root cannot be written.
    pub read_only: bool,
    /// `KEY=VALUE`, complete; a later one overrides an earlier one.
    pub env: Vec<String>,
    /// The working directory; `/` where absent.
    pub cwd: Option<String>,
    /// `USER[:GROUP]`, by name or number; root where absent.
    pub user: Option<String>,
    /// The hostname; made from the ID where absent.
    pub hostname: Option<String>,
    /// A minimal PID 1 before the command.
    pub init: bool,
    /// The network.
    pub network: Network,
    /// The user namespace: none of its own where absent; the ranges of its IDs, users and groups alike.
    pub userns: Option<Vec<LinuxIdMapping>>,
    /// `KEY=VALUE` or `KEY`.
    pub labels: Vec<String>,
    /// `KEY=VALUE`.
    pub annotations: Vec<String>,
    /// `SRC:DST[:opts]`.
    pub volumes: Vec<String>,
    /// `type=bind|tmpfs,…`.
    pub mounts: Vec<String>,
    /// `HOST[:CONTAINER[:rwm]]`.
    pub devices: Vec<String>,
    /// `DST[:opts]`.
    pub tmpfs: Vec<String>,
    /// What it may use.
    pub limits: Limits,
    /// What `stop` sends first; SIGTERM where absent.
    pub stop_signal: Option<String>,
    /// Seconds between that and SIGKILL.
    pub stop_timeout: u64,
    /// Stdin stays open.
    pub interactive: bool,
    /// Stdio is a terminal.
    pub terminal: bool,
    /// The size that terminal has from the beginning.
    pub window: Option<WindowSize>,
    /// Deleted once it has ended.
    pub rm: bool,
    /// Seconds that the command may run.
    pub timeout: Option<NonZeroU64>,
    /// Whether it is started again once it has ended.
    pub restart: RestartPolicy,
    /// How its health is checked.
    pub health: Option<Health>,
    /// Where the output goes; see [`Logging::parse`](crate::spec::logging::Logging::parse).
    pub log_drivers: Vec<String>,
    /// How; see the same.
    pub log_options: Vec<String>,
    /// Who its processes are and what stands between them and the host.
    pub walls: Walls,
    /// The command and its arguments.
    pub args: Vec<String>,
}

impl Options {
    /// `args` in `rootfs`, and nothing else asked for.
    pub fn new(rootfs: Rootfs, args: Vec<String>) -> Self {
        Self {
            rootfs,
            args,
            read_only: false,
            env: Vec::new(),
            cwd: None,
            user: None,
            hostname: None,
            init: false,
            network: Network::Host,
            userns: None,
            labels: Vec::new(),
            annotations: Vec::new(),
            volumes: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            tmpfs: Vec::new(),
            limits: Limits::default(),
            stop_signal: None,
            stop_timeout: STOP_TIMEOUT,
            interactive: false,
            terminal: false,
            window: None,
            rm: false,
            timeout: None,
            restart: RestartPolicy::No,
            health: None,
            log_drivers: Vec::new(),
            log_options: Vec::new(),
            walls: Walls::default(),
        }
    }
}

/// `--rootfs DIR[:O]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rootfs {
    /// The directory, as the user wrote it.
    pub dir: PathBuf,
    /// A writable overlay above it, which leaves it untouched.
    pub overlay: bool,
}

impl FromStr for Rootfs {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (dir, overlay) = text.strip_suffix(":O").map_or((text, false), |dir| (dir, true));
        if dir.is_empty() || dir.contains('\0') {
            return Err(Error::usage(format!("--rootfs {text:?}"), "is not a directory's path"));
        }
        Ok(Self { dir: Path::new(dir).to_owned(), overlay })
    }
}

/// `--network host|none|ns:PATH`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// The host's own.
    #[default]
    Host,
    /// A new one with nothing but `lo`.
    None,
    /// The one that this file stands for.
    Path(PathBuf),
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match (text, text.strip_prefix("ns:")) {
            ("host", _) => Ok(Self::Host),
            ("none", _) => Ok(Self::None),
            (_, Some(path)) if path.starts_with('/') => Ok(Self::Path(path.into())),
            _ => Err(Error::usage(format!("--network {text:?}"), "is none that podrun knows")
                .hint("host, none, or ns:PATH with an absolute path such as ns:/run/netns/NAME")),
        }
    }
}

/// `--userns host|auto[:size=N]|map:CONTAINER:HOST:SIZE[,…]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Userns {
    /// The host's.
    #[default]
    Host,
    /// A new one, with so many IDs that no other container has.
    Auto {
        /// How many.
        size: u32,
    },
    /// A new one with these ranges.
    Map(Vec<LinuxIdMapping>),
}

impl Userns {
    /// As many IDs as Debian's `nobody` and systemd's dynamic users need.
    const SIZE: u32 = 65536;
}

impl FromStr for Userns {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let what = || format!("--userns {text:?}");
        match text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest))) {
            ("host", None) => Ok(Self::Host),
            ("auto", None) => Ok(Self::Auto { size: Self::SIZE }),
            ("auto", Some(rest)) => match rest.strip_prefix("size=").map(str::parse) {
                Some(Ok(size @ 1..)) => Ok(Self::Auto { size }),
                _ => Err(Error::usage(what(), "is not auto:size=NUMBER, a size of at least 1")),
            },
            ("map", Some(rest)) => {
                let ranges: Option<Vec<_>> = rest.split(',').map(|range| idmap::range(range, ':')).collect();
                let ranges = ranges.ok_or_else(|| {
                    Error::usage(what(), "is not CONTAINER:HOST:SIZE[,…]").hint("map:0:100000:65536")
                })?;
                idmap::check(&what(), &ranges)?;
                match idmap::to_host(&ranges, 0) {
                    Some(_) => Ok(Self::Map(ranges)),
                    None => Err(Error::usage(what(), "does not map root, who builds the container")),
                }
            }
            _ => Err(Error::usage(what(), "is none that podrun knows")
                .hint("host, auto, auto:size=NUMBER, or map:CONTAINER:HOST:SIZE such as map:0:100000:65536")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rootfs_may_ask_for_an_overlay() {
        let rootfs = |text: &str| text.parse::<Rootfs>().map(|rootfs| (rootfs.dir, rootfs.overlay));
        assert_eq!(rootfs("/:O").unwrap(), (PathBuf::from("/"), true));
        assert_eq!(rootfs("a:b").unwrap(), (PathBuf::from("a:b"), false));
        assert!(rootfs("").is_err() && rootfs(":O").is_err());
    }

    #[test]
    fn a_network_is_one_of_three() {
        assert_eq!("ns:/run/netns/a".parse::<Network>().unwrap(), Network::Path("/run/netns/a".into()));
        for wrong in ["", "bridge", "ns:", "ns:a"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}

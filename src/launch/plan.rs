//! What is to be built, read out of the configuration and checked before anything exists.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxNamespaceType, LinuxResources, Spec};
use rustix::process::Rlimit;

use super::credentials::ProcessPlan;
use super::hooks::Hooks;
use super::labels;
use super::mount_options::{self, Idmap, Options};
use super::userns::Maps;
use crate::error::{Error, Result};
use crate::paths::ContainerPaths;
use crate::spec::limits;
use crate::spec::net_device::NetDevice;
use crate::spec::settings::Settings;

/// Everything that a container's init will do. Made by [`plan`](plan()).
#[derive(Debug)]
pub struct Plan {
    pub(super) rootfs: PathBuf,
    pub(super) read_only: bool,
    pub(super) overlay: Option<Overlay>,
    /// The SELinux label of the files that are the container's own.
    pub(super) label: Option<String>,
    /// A user namespace of the container's own.
    pub(super) userns: Option<Maps>,
    /// A directory of podrun's own, upon which mounts wait for an init in a user namespace.
    pub(super) stage: PathBuf,
    /// The root filesystem is shown through an idmapped mount.
    pub(super) idmap_root: bool,
    pub(super) namespaces: Namespaces,
    pub(super) mounts: Vec<Mount>,
    pub(super) devices: Vec<LinuxDevice>,
    /// What moves into its network namespace.
    pub(super) net_devices: Vec<NetDevice>,
    /// What says which devices may be used.
    pub(super) resources: Option<LinuxResources>,
    pub(super) hostname: Option<String>,
    pub(super) domainname: Option<String>,
    pub(super) sysctls: Vec<(String, String)>,
    pub(super) masked: Vec<PathBuf>,
    pub(super) read_only_paths: Vec<PathBuf>,
    /// `linux.rootfsPropagation`: set once everything is in place.
    pub(super) propagation: Options,
    pub(super) process: ProcessPlan,
    pub(super) init: bool,
    pub(super) preserved: Vec<OwnedFd>,
    pub(super) no_new_keyring: bool,
    pub(super) no_pivot: bool,
    pub(super) hooks: Hooks,
}

impl Plan {
    /// The command also gets `fds`, which are this process's own 3, 4 and so on, at those numbers.
    pub fn preserve(&mut self, fds: Vec<OwnedFd>) {
        self.process.preserved = fds.len();
        self.preserved = fds;
    }

    /// Limits the process's stack, unless the process names a limit of its own.
    pub fn limit_stack(&mut self, limit: Option<Rlimit>) {
        self.process.limit_stack(limit);
    }

    /// Leaves the container in the session keyring of this process, rather than give it one.
    pub fn share_keyring(&mut self, share: bool) {
        self.no_new_keyring = share;
    }

    /// Whether the parent has something to do while init waits.
    pub(super) fn waits_for_parent(&self) -> bool {
        self.hooks.are_for_parent() || !self.net_devices.is_empty()
    }

    /// Moves the root to its place, where `pivot_root` cannot work: on a host whose root is an initramfs.
    pub fn do_not_pivot(&mut self, no_pivot: bool) {
        self.no_pivot = no_pivot;
    }
}

/// A writable layer above the root filesystem.
#[derive(Debug)]
pub(super) struct Overlay {
    pub(super) upper: PathBuf,
    pub(super) work: PathBuf,
    /// What the container must not see of the root filesystem: podrun's own directories.
    pub(super) hidden: Vec<PathBuf>,
}

/// Which namespaces the container has of its own, and how it comes by them.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// `CLONE_NEW*` for clone3: all new ones but the cgroup namespace.
    pub(super) new: u64,
    /// A cgroup namespace of its own: unshared by the child once it is in its cgroup.
    pub(super) cgroup: bool,
    /// The pid namespace of others that init is born in.
    pub(super) pid: Option<PathBuf>,
    /// Namespaces of others, to be joined by path.
    pub(super) joined: Vec<(LinuxNamespaceType, PathBuf)>,
    /// A time namespace of its own, with these clocks moved: unshared by the child, since the clocks
    /// can be set only while nobody is in it.
    pub(super) time: Option<Vec<TimeOffset>>,
    /// `CLONE_NEW*`: all that a process joining the container joins, but the pid namespace.
    pub(super) owned: u32,
}

/// How far a clock of a time namespace is from the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TimeOffset {
    /// `monotonic` or `boottime`.
    pub(super) clock: String,
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

impl TimeOffset {
    fn all(spec: &Spec) -> Result<Vec<Self>> {
        let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
        let mut all = Vec::new();
        for (clock, offset) in offsets.into_iter().flatten() {
            if clock != "monotonic" && clock != "boottime" {
                return Err(Error::usage(
                    format!("config linux.timeOffsets {clock}"),
                    "is not one of monotonic and boottime",
                ));
            }
            all.push(Self {
                clock: clock.clone(),
                seconds: offset.secs().unwrap_or(0),
                nanoseconds: offset.nanosecs().unwrap_or(0),
            });
        }
        Ok(all)
    }
}

/// One mount below the root.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) destination: PathBuf,
    /// The file system's type; `bind` for a bind mount.
    pub(super) kind: String,
    pub(super) source: Option<PathBuf>,
    pub(super) options: Options,
    /// An idmapped mount.
    pub(super) idmap: Option<MountMap>,
    /// The SELinux label of its root directory, where the whole file system cannot be given one.
    pub(super) label: Option<String>,
}

/// How a mount is idmapped.
#[derive(Debug)]
pub(super) struct MountMap {
    /// With all mounts below.
    pub(super) recursive: bool,
    /// Its own map; the container's where absent.
    pub(super) own: Option<Maps>,
}

impl Namespaces {
    /// The bit of `clone(2)` for a namespace.
    pub(super) fn flag(kind: LinuxNamespaceType) -> u32 {
        // The enum's values are the kernel's.
        kind as u32
    }

    pub(super) fn of(spec: &Spec) -> Result<Self> {
        let mut namespaces = Self::default();
        let named = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        for namespace in named.into_iter().flatten() {
            let kind = namespace.typ();
            let flag = Self::flag(kind);
            match (kind, namespace.path()) {
                (LinuxNamespaceType::Pid, Some(path)) => namespaces.pid = Some(path.clone()),
                (LinuxNamespaceType::Mount | LinuxNamespaceType::User, Some(path)) => {
                    return Err(unsupported(format!("joining the {kind} namespace {}", path.display())));
                }
                (_, Some(path)) => namespaces.joined.push((kind, path.clone())),
                (LinuxNamespaceType::Cgroup, None) => namespaces.cgroup = true,
                (LinuxNamespaceType::Time, None) => namespaces.time = Some(TimeOffset::all(spec)?),
                (_, None) => namespaces.new |= u64::from(flag),
            }
            namespaces.owned |= flag;
        }
        if namespaces.new & u64::from(Self::flag(LinuxNamespaceType::Mount)) == 0 {
            return Err(Error::usage("linux.namespaces", "has no new mount namespace"));
        }
        // A cgroup file system of theirs would have to be mounted from outside, where it shows what is the host's.
        let mut joined = namespaces.joined.iter();
        if let Some((kind, path)) = joined.find(|(kind, _)| *kind == LinuxNamespaceType::Cgroup)
            && namespaces.is_new(LinuxNamespaceType::User)
        {
            let what = format!("joining the {kind} namespace {} from a new user namespace", path.display());
            return Err(unsupported(what));
        }
        Ok(namespaces)
    }

    /// Whether the container has this namespace new and to itself.
    pub(super) fn is_new(&self, kind: LinuxNamespaceType) -> bool {
        self.new & u64::from(Self::flag(kind)) != 0
    }
}

fn unsupported(what: String) -> Error {
    Error::usage("linux.namespaces", format!("{what} is not supported yet"))
}

/// The plan for the container that `spec` describes. Relative paths in it start at `bundle`.
pub fn plan(spec: &Spec, settings: &Settings, paths: &ContainerPaths, bundle: &Path) -> Result<Plan> {
    let root = spec.root().as_ref().ok_or_else(|| Error::usage("root", "is missing"))?;
    let process = spec.process().as_ref().ok_or_else(|| Error::usage("process", "is missing"))?;
    let linux = spec.linux().as_ref();
    let masked = linux.and_then(|linux| linux.masked_paths().as_ref());
    let read_only_paths = linux.and_then(|linux| linux.readonly_paths().as_ref());
    let label = linux.and_then(|linux| linux.mount_label().as_deref()).filter(|label| !label.is_empty());
    label.map(labels::check_selinux).transpose()?;
    let namespaces = Namespaces::of(spec)?;
    if spec.hostname().as_ref().is_some_and(|name| !name.is_empty())
        && !namespaces.is_new(LinuxNamespaceType::Uts)
    {
        return Err(Error::usage("hostname", "needs a UTS namespace of the container's own"));
    }
    let mut process = ProcessPlan::of(process, spec, settings)?;
    if let Some(notify) = &mut process.notify {
        if settings.init {
            return Err(Error::usage("linux.seccomp", "SCMP_ACT_NOTIFY cannot be had with a minimal init"));
        }
        notify.tell_container(&paths.id()?, bundle, None);
    }
    Ok(Plan {
        rootfs: bundle.join(root.path()),
        read_only: root.readonly().unwrap_or(false),
        overlay: settings.overlay.then(|| Overlay {
            upper: paths.upper(),
            work: paths.work(),
            hidden: hidden(paths),
        }),
        label: label.map(str::to_owned),
        userns: Maps::of(spec).filter(|_| namespaces.is_new(LinuxNamespaceType::User)),
        stage: paths.run_dir.clone(),
        idmap_root: settings.idmap_root,
        mounts: spec
            .mounts()
            .iter()
            .flatten()
            .map(|mount| Mount::of(mount, bundle, namespaces.is_new(LinuxNamespaceType::User)))
            .map(|mount| Ok(mount?.labelled(label, &namespaces)))
            .collect::<Result<_>>()?,
        devices: linux.and_then(|linux| linux.devices().clone()).unwrap_or_default(),
        net_devices: linux.map(NetDevice::all).unwrap_or_default(),
        resources: limits::resources(spec).cloned(),
        hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
        domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
        sysctls: linux.and_then(|linux| linux.sysctl().clone()).into_iter().flatten().collect(),
        masked: masked.into_iter().flatten().map(PathBuf::from).collect(),
        read_only_paths: read_only_paths.into_iter().flatten().map(PathBuf::from).collect(),
        propagation: mount_options::parse(
            linux.and_then(|linux| linux.rootfs_propagation().as_deref()).filter(|word| !word.is_empty()),
        ),
        process,
        init: settings.init,
        preserved: Vec::new(),
        no_new_keyring: false,
        no_pivot: false,
        hooks: Hooks::of(spec, &paths.id()?, bundle)?,
        namespaces,
    })
}

/// podrun's own directories: those that hold every container's.
fn hidden(paths: &ContainerPaths) -> Vec<PathBuf> {
    let root = paths.dir.parent().and_then(Path::parent);
    let run_root = paths.run_dir.parent();
    root.into_iter().chain(run_root).map(Path::to_owned).collect()
}

impl Mount {
    /// The same mount, its files labelled where they are the container's own.
    fn labelled(mut self, label: Option<&str>, namespaces: &Namespaces) -> Self {
        let Some(label) = label.filter(|_| !self.options.bind) else { return self };
        let own = self.options.data.iter().any(|(key, _)| key == "context");
        match self.kind.as_str() {
            "proc" | "sysfs" | "cgroup" | "cgroup2" => {}
            // It is as old as the IPC namespace, and has no label as a whole.
            "mqueue" => {
                self.label = namespaces.is_new(LinuxNamespaceType::Ipc).then(|| label.to_owned());
            }
            _ if own => {}
            _ => self.options.data.push(("context".to_owned(), Some(label.to_owned()))),
        }
        self
    }

    fn of(mount: &oci_spec::runtime::Mount, bundle: &Path, userns: bool) -> Result<Self> {
        let destination = mount.destination();
        let what = || format!("mount on {}", destination.display());
        if destination.components().any(|part| part == Component::ParentDir) {
            return Err(Error::usage(what(), "the destination contains `..`"));
        }
        let mut options = mount_options::parse(mount.options().iter().flatten().map(String::as_str));
        let kind = mount.typ().clone().unwrap_or_default();
        options.bind |= kind == "bind" && !options.remount;
        let source = if options.bind {
            let source = mount.source().as_ref().ok_or_else(|| Error::usage(what(), "has no source"))?;
            Some(bundle.join(source))
        } else {
            mount.source().clone()
        };
        if let Some(option) = options.unknown_to_bind().filter(|_| options.bind) {
            return Err(Error::usage(what(), format!("unknown mount option {option:?}")));
        }
        let own = match (mount.uid_mappings(), mount.gid_mappings()) {
            (Some(uids), Some(gids)) => Some(Maps { uids: uids.clone(), gids: gids.clone() }),
            _ => None,
        };
        let idmap = (options.idmap.is_some() || own.is_some())
            .then(|| MountMap { recursive: options.idmap == Some(Idmap::Recursive), own });
        if idmap.as_ref().is_some_and(|idmap| idmap.own.is_none() && !userns) {
            return Err(Error::usage(what(), "idmap without a map needs a user namespace to take it from")
                .hint("--userns auto, or a map of its own: idmap=uids=0-1000-1;gids=0-1000-1"));
        }
        if idmap.is_some() && !options.bind {
            return Err(Error::usage(what(), "only a bind mount can be idmapped"));
        }
        if kind.is_empty() && !options.bind && !options.remount {
            return Err(Error::usage(what(), "has no type"));
        }
        Ok(Self { destination: destination.clone(), kind, source, options, idmap, label: None })
    }
}

/// A string for the kernel.
pub(super) fn c_string(what: &str, text: impl AsRef<std::ffi::OsStr>) -> Result<CString> {
    let text = text.as_ref();
    CString::new(text.as_bytes()).map_err(|_| Error::usage(format!("{what} {text:?}"), "contains a NUL byte"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The label that a mount of this kind and with this option gets, as an option and for its root directory.
    fn labels(kind: &str, option: &str, namespaces: &Namespaces) -> (Option<String>, Option<String>) {
        let mount = serde_json::json!({
            "destination": "/x", "type": kind, "source": "/", "options": [option],
        });
        let mount = serde_json::from_value(mount).unwrap();
        let mount = Mount::of(&mount, Path::new("/"), false).unwrap().labelled(Some("u:r:t:s0"), namespaces);
        let mut contexts = mount.options.data.into_iter().filter(|(key, _)| key == "context");
        let context = contexts.next().and_then(|(_, value)| value);
        assert!(contexts.next().is_none(), "{kind}");
        (context, mount.label)
    }

    #[test]
    fn what_is_the_containers_own_is_labelled_and_nothing_else() {
        let own =
            Namespaces { new: u64::from(Namespaces::flag(LinuxNamespaceType::Ipc)), ..Namespaces::default() };
        let shared = Namespaces::default();
        let label = || Some("u:r:t:s0".to_owned());
        for kind in ["tmpfs", "devpts"] {
            assert_eq!(labels(kind, "rw", &own), (label(), None), "{kind}");
        }
        for kind in ["proc", "sysfs", "cgroup", "cgroup2", "bind"] {
            assert_eq!(labels(kind, "rw", &own), (None, None), "{kind}");
        }
        assert_eq!(labels("mqueue", "rw", &own), (None, label()));
        assert_eq!(labels("mqueue", "rw", &shared), (None, None));
        assert_eq!(labels("tmpfs", "context=a:b:c:s0", &own), (Some("a:b:c:s0".to_owned()), None));
    }
}

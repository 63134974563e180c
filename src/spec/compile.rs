//! From what the user asked for to the OCI configuration that launch builds.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, LinuxResources, Mount,
    Process, Root, Spec, User,
};

use crate::error::{Error, Result};
use crate::paths::{ContainerId, ContainerPaths};
use crate::spec::host::Host;
use crate::spec::logging::Logging;
use crate::spec::options::{Network, Options};
use crate::spec::rootfiles::{self, RootFile};
use crate::spec::settings::{Seccomp, Settings};
use crate::spec::terminal::WindowSize;
use crate::spec::volume::tmpfs;
use crate::spec::walls::{Profile, Share, Walls};
use crate::spec::{defaults, device, env, idmap, profile, signal, validate};

/// The version of the OCI runtime specification that `spec.json` follows.
const OCI_VERSION: &str = "1.2.0";
/// The longest hostname that is a DNS label too.
const HOSTNAME: usize = 63;
/// The longest hostname of the kernel (`uname(2)`).
const KERNEL_HOSTNAME: usize = 64;
/// Annotations that are podrun's own.
const OWN_ANNOTATIONS: &str = "dev.podrun.";

/// A container, ready to be put into the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// What `spec.json` will hold.
    pub spec: Spec,
    /// The same settings that the spec carries.
    pub settings: Settings,
    /// Files that belong beside `spec.json`, which the spec mounts.
    pub files: Vec<RootFile>,
}

/// The container `id` that `options` describe on this `host`.
pub fn compile(options: &Options, id: &ContainerId, paths: &ContainerPaths, host: &Host) -> Result<Compiled> {
    let settings = settings(options)?;
    let (hostname, own_hostname) = hostname(options, id, host)?;
    let files = files(options, &hostname, host);
    let process = process(options, &hostname)?;
    let mut linux = linux(options, &process, host)?;
    let mut mounts = mounts(options, &files, paths, host)?;
    mounts.extend(device::grant(&host.granted, options.userns.is_some(), &mut linux));
    let mut spec = Spec::default();
    let mut root = Root::default();
    root.set_path(host.rootfs.clone()).set_readonly(Some(options.read_only));
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_mounts(Some(mounts))
        .set_process(Some(process))
        .set_annotations(Some(annotations(options, &settings)?))
        .set_linux(Some(linux))
        .set_hostname(own_hostname.then_some(hostname));
    validate::validate(&spec)?;
    Ok(Compiled { spec, settings, files })
}

fn settings(options: &Options) -> Result<Settings> {
    let mut labels = BTreeMap::new();
    for label in &options.labels {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        if key.is_empty() {
            return Err(Error::usage(format!("--label {label:?}"), "has no name").hint("write KEY=VALUE"));
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    let default = Settings::default();
    let settings = Settings {
        overlay: options.rootfs.overlay,
        idmap_root: options.userns.is_some(),
        init: options.init,
        rm: options.rm,
        interactive: options.interactive,
        stop_signal: match &options.stop_signal {
            Some(text) => signal::parse(text)?,
            None => default.stop_signal,
        },
        stop_timeout: options.stop_timeout,
        seccomp: match options.walls.security.seccomp {
            Profile::Default if !options.walls.privileged => Seccomp::Default,
            _ => Seccomp::Configured,
        },
        groups: groups(&options.walls.group_add)?,
        labels,
        logging: Logging::parse(&options.log_drivers, &options.log_options)?,
        timeout: options.timeout,
        restart: options.restart,
        health: options.health.clone(),
        cgroups: options.cgroups,
    };
    settings.check()?;
    Ok(settings)
}

fn annotations(options: &Options, settings: &Settings) -> Result<HashMap<String, String>> {
    let mut annotations = HashMap::new();
    for text in &options.annotations {
        let wrong = |why| Error::usage(format!("--annotation {text:?}"), why);
        match text.split_once('=') {
            Some((key, _)) if key.starts_with(OWN_ANNOTATIONS) => {
                return Err(wrong("names that begin with dev.podrun. are podrun's own"));
            }
            Some((key, value)) if !key.is_empty() => {
                annotations.insert(key.to_owned(), value.to_owned());
            }
            _ => return Err(wrong("is not KEY=VALUE")),
        }
    }
    settings.write_to(&mut annotations);
    Ok(annotations)
}

/// The groups as they may stand in one annotation.
fn groups(names: &[String]) -> Result<Vec<String>> {
    let legal = |name: &String| !name.is_empty() && !name.contains([',', ':', '\n', '\0']);
    match names.iter().find(|name| !legal(name)) {
        Some(name) => Err(Error::usage(format!("--group-add {name:?}"), "is no group's name or number")),
        None => Ok(names.to_vec()),
    }
}

/// What the container is called, and whether it is to be told so: a uts namespace of others has
/// its name already.
fn hostname(options: &Options, id: &ContainerId, host: &Host) -> Result<(String, bool)> {
    if options.walls.uts == Share::Private {
        return Ok((own_hostname(options.hostname.as_deref(), id)?, true));
    }
    match &options.hostname {
        Some(name) => Err(Error::usage(format!("--hostname {name:?}"), "needs a uts namespace of its own")
            .hint("leave out --uts, or --hostname")),
        None => Ok((host.hostname.clone(), false)),
    }
}

/// The name the user gave, or what of the ID is legal in one.
fn own_hostname(given: Option<&str>, id: &ContainerId) -> Result<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let Some(name) = given else {
        let name: String = id.as_str().chars().filter(|c| legal(*c)).take(HOSTNAME).collect();
        return Ok(name.trim_end_matches(['-', '.']).to_owned());
    };
    if name.is_empty() || name.len() > KERNEL_HOSTNAME || !name.chars().all(|c| legal(c) || c == '_') {
        return Err(Error::usage(format!("--hostname {name:?}"), "is not a legal hostname")
            .hint("letters, digits, dashes and dots, up to 64 bytes"));
    }
    Ok(name.to_owned())
}

/// The files to mount over `/etc`: all of them where the container writes into an overlay; below a
/// read-only root those that have a place there.
fn files(options: &Options, hostname: &str, host: &Host) -> Vec<RootFile> {
    if !options.rootfs.overlay && !options.read_only {
        return Vec::new();
    }
    let files = rootfiles::generate(hostname, &options.network, host).into_iter().zip(host.has);
    files.filter(|(_, has)| options.rootfs.overlay || *has).map(|(file, _)| file).collect()
}

/// The kernel's file systems, then the user's mounts, parents first. What the user mounts on a
/// place takes that place.
fn mounts(options: &Options, files: &[RootFile], paths: &ContainerPaths, host: &Host) -> Result<Vec<Mount>> {
    let mut own = host.mounts.clone();
    for text in &options.tmpfs {
        own.push(tmpfs(text)?);
    }
    for (index, mount) in own.iter().enumerate() {
        let destination = mount.destination();
        if own[..index].iter().any(|earlier| earlier.destination() == destination) {
            return Err(Error::usage(
                format!("mount on {}", destination.display()),
                "two volumes have this destination",
            ));
        }
    }
    for file in files {
        let destination = Path::new("/etc").join(file.name);
        if own.iter().all(|mount| *mount.destination() != destination) {
            let access = if options.read_only { "ro" } else { "rw" };
            let options = ["bind", "rprivate", access].map(str::to_owned);
            own.push(defaults::mount(&destination, "bind", &paths.dir.join(file.name), &options));
        }
    }
    own.sort_by_key(|mount| mount.destination().components().count());
    let mut mounts = defaults::mounts();
    // The group of terminals: only where it exists.
    if options.userns.as_ref().is_some_and(|ranges| idmap::to_host(ranges, defaults::TTY_GROUP).is_none()) {
        let no_group = |mount: &mut Mount| {
            let options: Vec<_> =
                mount.options().iter().flatten().filter(|o| !o.starts_with("gid=")).cloned().collect();
            mount.set_options(Some(options));
        };
        mounts.iter_mut().for_each(no_group);
    }
    adapt(&mut mounts, &options.walls);
    for mount in own {
        match mounts.iter_mut().find(|default| default.destination() == mount.destination()) {
            Some(default) => *default = mount,
            None => mounts.push(mount),
        }
    }
    Ok(mounts)
}

/// The kernel's file systems as `walls` want them.
fn adapt(mounts: &mut [Mount], walls: &Walls) {
    for mount in mounts {
        let place = mount.destination().clone();
        if walls.privileged && place.starts_with("/sys") {
            let options = mount.options().iter().flatten().filter(|option| *option != "ro").cloned();
            let options = options.chain(["rw".to_owned()]).collect();
            mount.set_options(Some(options));
        }
        // POSIX shared memory is files: it goes with the namespace.
        if walls.ipc == Share::Host && place == Path::new("/dev/shm") {
            let options = ["rbind", "rprivate", "nosuid", "nodev", "noexec"].map(str::to_owned);
            *mount = defaults::mount(&place, "bind", &place, &options);
        }
    }
}

fn process(options: &Options, hostname: &str) -> Result<Process> {
    let mut env = vec![defaults::PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if options.terminal {
        env.push(defaults::TERM.to_owned());
    }
    for entry in &options.env {
        env::put(&mut env, entry.clone());
    }
    let mut process = Process::default();
    process
        .set_terminal(Some(options.terminal))
        .set_console_size(options.window.map(WindowSize::console_size))
        .set_user(user(options.user.as_deref())?)
        .set_args(Some(options.args.clone()))
        .set_env(Some(env))
        .set_cwd(PathBuf::from(options.cwd.as_deref().unwrap_or("/")))
        .set_capabilities(Some(options.walls.capabilities()?))
        .set_rlimits(options.walls.rlimits()?)
        .set_oom_score_adj(options.walls.oom_score()?)
        .set_apparmor_profile(options.walls.security.apparmor.clone())
        .set_selinux_label(options.walls.security.labels.as_ref().map(|(process, _)| process.clone()))
        .set_no_new_privileges(Some(options.walls.security.no_new_privileges));
    Ok(process)
}

/// Two numbers are the user. Anything else has to be looked up in the container's own
/// `/etc/passwd` and `/etc/group`, which is launch's to do, by the name.
fn user(text: Option<&str>) -> Result<User> {
    let mut user = User::default();
    let Some(text) = text else { return Ok(user) };
    let (name, group) = text.split_once(':').map_or((text, None), |(name, group)| (name, Some(group)));
    if name.is_empty() || group == Some("") || text.contains(['\0', '\n']) {
        return Err(Error::usage(format!("--user {text:?}"), "is not USER or USER:GROUP"));
    }
    match (name.parse(), group.map(str::parse)) {
        (Ok(uid), Some(Ok(gid))) => user.set_uid(uid).set_gid(gid),
        _ => user.set_username(Some(text.to_owned())),
    };
    Ok(user)
}

/// The limits, and every device where the container is privileged.
fn resources(options: &Options) -> Result<Option<LinuxResources>> {
    let resources = options.limits.resources()?;
    if !options.walls.privileged {
        return Ok(resources);
    }
    let mut every = LinuxDeviceCgroup::default();
    every.set_allow(true).set_typ(Some(LinuxDeviceType::A)).set_access(Some("rwm".to_owned()));
    let mut resources = resources.unwrap_or_default();
    resources.set_devices(Some(vec![every]));
    Ok(Some(resources))
}

fn linux(options: &Options, process: &Process, host: &Host) -> Result<Linux> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network as Net, Pid, User, Uts};
    let walls = &options.walls;
    let new = |kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    };
    let mut namespaces: Vec<_> = [Mount, Cgroup].map(new).into();
    let network = match &options.network {
        Network::Host => Share::Host,
        Network::None => Share::Private,
        Network::Path(path) => Share::Path(path.clone()),
    };
    for (kind, share) in [(Pid, &walls.pid), (Uts, &walls.uts), (Ipc, &walls.ipc), (Net, &network)] {
        match share {
            Share::Host => {}
            Share::Private => namespaces.push(new(kind)),
            Share::Path(path) => {
                let mut namespace = new(kind);
                namespace.set_path(Some(path.clone()));
                namespaces.push(namespace);
            }
        }
    }
    let seccomp = host.seccomp.as_ref().map(|text| {
        let bounding = process.capabilities().as_ref().and_then(|sets| sets.bounding().clone());
        let resolved = profile::resolve(text, &bounding.unwrap_or_default(), host.kernel);
        resolved.map_err(|error| match &walls.security.seccomp {
            Profile::File(path) => error.at_file(path),
            _ => error,
        })
    });
    let hidden = |paths: &[&str]| {
        let paths = if walls.privileged { &[] } else { paths };
        paths.iter().copied().map(str::to_owned).collect()
    };
    let mut linux = Linux::default();
    if let Some(ranges) = &options.userns {
        namespaces.push(new(User));
        linux.set_uid_mappings(Some(ranges.clone())).set_gid_mappings(Some(ranges.clone()));
    }
    linux
        .set_namespaces(Some(namespaces))
        .set_resources(resources(options)?)
        .set_cgroups_path(options.cgroups_path.clone())
        .set_rootfs_propagation(Some("rprivate".to_owned()))
        .set_sysctl(walls.sysctls()?)
        .set_seccomp(seccomp.transpose()?)
        .set_mount_label(walls.security.labels.as_ref().map(|(_, mounts)| mounts.clone()))
        .set_masked_paths(Some(hidden(&defaults::MASKED)))
        .set_readonly_paths(Some(hidden(&defaults::READ_ONLY)));
    Ok(linux)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::paths::Roots;

    fn options() -> Options {
        Options::new("/r".parse().unwrap(), vec!["/bin/true".to_owned()])
    }

    fn compiled(options: &Options, id: &str) -> Result<Compiled> {
        let id: ContainerId = id.parse().unwrap();
        let paths = Roots::new(None, None).unwrap().container(&id);
        let mounts = options
            .volumes
            .iter()
            .map(|v| crate::spec::volume::Volume::parse(v, Path::new("/")).map(|v| v.mount()))
            .collect::<Result<_>>()?;
        let host = Host { rootfs: "/r".into(), mounts, ..Host::default() };
        compile(options, &id, &paths, &host)
    }

    fn destinations(spec: &Spec) -> Vec<String> {
        spec.mounts().iter().flatten().map(|m| m.destination().display().to_string()).collect()
    }

    #[test]
    fn the_plain_container_has_what_engines_give_one() {
        let spec = compiled(&options(), "web_1").unwrap().spec;
        let process = spec.process().as_ref().unwrap();
        assert_eq!(spec.hostname().as_deref(), Some("web1"));
        assert_eq!(process.env().as_ref().unwrap()[1], "HOSTNAME=web1");
        assert_eq!(process.cwd(), Path::new("/"));
        let capabilities = process.capabilities().as_ref().unwrap();
        assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 13);
        assert!(capabilities.ambient().as_ref().unwrap().is_empty());
        assert_eq!(spec.linux().as_ref().unwrap().namespaces().as_ref().unwrap().len(), 5);
        assert_eq!(
            destinations(&spec),
            ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"],
        );
    }

    #[test]
    fn an_overlay_gets_its_own_files_in_etc_unless_the_user_mounts_there() {
        let mut options = options();
        options.rootfs.overlay = true;
        options.volumes = vec!["/x:/etc/hosts".into()];
        let Compiled { spec, files, .. } = compiled(&options, "c").unwrap();
        assert_eq!(files.len(), 3);
        let hosts =
            spec.mounts().as_ref().unwrap().iter().find(|m| m.destination().ends_with("hosts")).unwrap();
        assert_eq!(hosts.source().as_deref(), Some(Path::new("/x")));
        assert!(destinations(&spec).contains(&"/etc/resolv.conf".to_owned()));
    }

    #[test]
    fn a_mount_of_the_users_takes_the_place_of_a_default_and_parents_come_first() {
        let mut options = options();
        options.volumes = vec!["/a:/srv/deep/er".into(), "/b:/srv".into()];
        options.tmpfs = vec!["/dev/shm:size=1m".into()];
        let got = destinations(&compiled(&options, "c").unwrap().spec);
        assert_eq!(got[3], "/dev/shm");
        assert_eq!(got[7..], ["/srv", "/srv/deep/er"]);
        options.tmpfs.push("/srv".into());
        assert!(compiled(&options, "c").is_err());
    }

    #[test]
    fn podruns_own_annotations_are_refused() {
        let mut options = options();
        options.annotations = vec!["dev.podrun.rm=true".into()];
        assert!(compiled(&options, "c").is_err());
        options.annotations = vec!["a=b=c".into()];
        let spec = compiled(&options, "c").unwrap().spec;
        assert_eq!(spec.annotations().as_ref().unwrap()["a"], "b=c");
    }

    #[test]
    fn two_numbers_are_a_user_and_a_name_is_left_to_the_rootfs() {
        let user = |text| user(Some(text)).map(|user| (user.uid(), user.gid(), user.username().clone()));
        assert_eq!(user("1000:50").unwrap(), (1000, 50, None));
        assert_eq!(user("1000").unwrap().2.as_deref(), Some("1000"));
        assert_eq!(user("www:50").unwrap().2.as_deref(), Some("www:50"));
        for wrong in ["", ":", "a:", ":b"] {
            assert!(user(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_compiled_spec_is_valid_json_that_says_the_same(
            id in "[a-z][a-zA-Z0-9_.+-]{0,127}", env in prop::collection::vec("[A-Z]{1,3}=.{0,9}", 0..5),
            args in prop::collection::vec("[^\0]{1,9}", 1..5), label in "[a-z.]{1,9}=.{0,9}",
            read_only: bool, overlay: bool, rm: bool, stop_timeout: u64, network in 0..3,
        ) {
            let mut options = Options { env, args, read_only, rm, stop_timeout, labels: vec![label], ..options() };
            prop_assume!(options.env.iter().all(|e| !e.contains('\0')));
            options.rootfs.overlay = overlay;
            options.network = match network {
                0 => Network::Host,
                1 => Network::None,
                _ => Network::Path("/run/netns/a".into()),
            };
            let compiled = compiled(&options, &id).unwrap();
            let json = serde_json::to_string(&compiled.spec).unwrap();
            let back: Spec = serde_json::from_str(&json).unwrap();
            validate::validate(&back).unwrap();
            prop_assert_eq!(&Settings::of(&back).unwrap(), &compiled.settings);
            prop_assert_eq!(back, compiled.spec.clone());
            let name = compiled.spec.hostname().as_ref().unwrap();
            prop_assert!(!name.is_empty() && name.len() <= 63);
        }
    }
}

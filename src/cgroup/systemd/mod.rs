//! A container's cgroup as a unit of systemd: a transient scope, for hosts where systemd is the one writer of the
//! cgroup tree and engines ask it for every group (`systemd.scope(5)`, systemd's `CGROUP_DELEGATION`).
//!
//! ```text
//!  SLICE:PREFIX:NAME ─▶ Scope ─▶ path below the mount
//!  [Setting]         ─▶ [Property] ─┐
//!                                   ▼
//!  a process that waits ─▶ StartTransientUnit ─▶ JobRemoved: the cgroup is there, and delegated
//!          ▼                        init is born in it, as in every other one
//!     ends then, for a scope without a process would be gone
//! ```
//!
//! The limits are the unit's properties, so that `systemctl show` tells them and a reload does not undo them; they are
//! written to the files as for every other cgroup, too, with what systemd has no property for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::limits::Setting;
use super::mount;
use crate::error::{Error, Result};
use crate::paths::{ContainerId, Roots};
use crate::sys::clone::{self, Waiting};

mod bus;
pub mod property;

use property::{Property, Value};

/// The slice of a container that names none.
const SLICE: &str = "system.slice";
/// Of a unit's name: `systemd.unit(5)`.
const MAX_NAME: usize = 255;
/// How long systemd may take for one of our wishes.
const PATIENCE: Duration = Duration::from_secs(25);

/// A scope that was made, and the inode of its cgroup: once it is empty systemd removes it, and another container may
/// have one of that name and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit<'a> {
    /// Its name.
    pub name: &'a str,
    /// The inode; `None` where it was never made, or in another boot.
    pub inode: Option<u64>,
}

/// The scope that one container is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    slice: String,
    unit: String,
}

impl Scope {
    /// The scope of container `id`: `wanted` (`linux.cgroupsPath`) is `SLICE:PREFIX:NAME`, as for runc and crun,
    /// and means `PREFIX-NAME.scope`; without it, it is `podrun-ID.scope`.
    pub fn of(roots: &Roots, id: &ContainerId, wanted: Option<&Path>) -> Result<Self> {
        let Some(wanted) = wanted else {
            return Ok(Self { slice: SLICE.to_owned(), unit: Self::own_unit(roots, id) });
        };
        let wrong = |why: &str| Error::usage(format!("linux.cgroupsPath {}", wanted.display()), why);
        let parts: Vec<&str> = wanted.to_str().unwrap_or_default().split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            return Err(wrong("is not SLICE:PREFIX:NAME, as systemd's cgroup manager needs it")
                .hint("such as system.slice:podrun:web; or choose the cgroupfs cgroup manager"));
        };
        let unit = match prefix {
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
        if name.is_empty() || unit.len() > MAX_NAME || !unit.bytes().all(legal) {
            return Err(wrong(&format!("{unit:?} is no name of a unit")));
        }
        if name.ends_with(".slice") {
            return Err(wrong("a slice has no processes of its own"));
        }
        let slice = if slice.is_empty() { SLICE } else { slice };
        if below(slice).is_none() {
            return Err(wrong(&format!("{slice:?} is no name of a slice")));
        }
        Ok(Self { slice: slice.to_owned(), unit })
    }

    /// The scope whose cgroup is at `path`: see [`path`](Self::path).
    pub fn at(path: &Path) -> Option<Self> {
        let name = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
        let above = path.parent()?;
        // What is right below the mount is in the root slice.
        let slice =
            name(above).filter(|slice| below(slice).is_some()).unwrap_or_else(|| "-.slice".to_owned());
        Some(Self { slice, unit: name(path)? })
    }

    /// The unit of a container that was not told another one.
    pub fn own_unit(roots: &Roots, id: &ContainerId) -> String {
        format!("{}-{}.scope", roots.cgroup_name(), escaped(id))
    }

    /// What `--cgroup-parent` makes of container `id`'s `linux.cgroupsPath`.
    pub fn below_parent(roots: &Roots, id: &ContainerId, slice: &str) -> Result<PathBuf> {
        if below(slice).is_none() {
            return Err(Error::usage(format!("--cgroup-parent {slice:?}"), "is no name of a slice")
                .hint("with systemd's cgroup manager it is one such as machine.slice"));
        }
        Ok(format!("{slice}:{}:{}", roots.cgroup_name(), escaped(id)).into())
    }

    /// The unit's name.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// Where its cgroup is, or will be: absolute, on the host. An error where no systemd makes it.
    pub fn path(&self) -> Result<PathBuf> {
        let unable =
            |why: &str, hint: &str| Err(Error::failed("use systemd's cgroup manager", why).hint(hint));
        // `sd_booted(3)`
        if !Path::new("/run/systemd/system").is_dir() {
            return unable("this host was not booted with systemd", "choose the cgroupfs cgroup manager");
        }
        let mount = mount()?;
        if mount != Path::new("/sys/fs/cgroup") {
            let hint = "boot with systemd.unified_cgroup_hierarchy=1, or choose the cgroupfs cgroup manager";
            return unable("this host has cgroup v1 beside v2", hint);
        }
        Ok(mount.join(below(&self.slice).unwrap_or_default()).join(&self.unit))
    }

    /// Makes the scope, with `settings` as its limits and with `more` properties. It lives as long as a process is
    /// in it: until the container's is, that is the one that this returns.
    pub fn start(&self, id: &ContainerId, settings: &[Setting], more: Vec<Property>) -> Result<Waiting> {
        let waiting = clone::waiting().map_err(|error| Error::io("start", "a process to wait", &error))?;
        if settings
            .iter()
            .any(|setting| setting.file == "pids.max" && matches!(setting.value.as_str(), "0" | "1"))
        {
            return Err(Error::usage("a limit of one process", "leaves systemd's scope none to begin with")
                .hint("two or more, or the cgroupfs cgroup manager"));
        }
        let mut properties = vec![
            Property::new("Description", Value::Text(format!("podrun container {id}"))),
            Property::new("Slice", Value::Text(self.slice.clone())),
            Property::new("PIDs", Value::Numbers(vec![waiting.pid().unsigned_abs()])),
            // What the container makes below is its own, and every controller is there for it.
            Property::new("Delegate", Value::Bool(true)),
            // It is no login's and no service's: it stays when those go, and ends with the host.
            Property::new("DefaultDependencies", Value::Bool(false)),
            // A process that the OOM killer ended leaves no unit behind that somebody would have to reset.
            Property::new("CollectMode", Value::Text("inactive-or-failed".to_owned())),
        ];
        for accounting in ["CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting"] {
            properties.push(Property::new(accounting, Value::Bool(true)));
        }
        properties.extend(property::of_settings(settings)?);
        for property in more {
            properties.retain(|other| other.name != property.name);
            properties.push(property);
        }
        bus::start(&self.unit, &properties)?;
        Ok(waiting)
    }
}

/// Without the one legal letter of an ID that a unit's name cannot have.
fn escaped(id: &ContainerId) -> String {
    id.as_str().replace('+', "\\x2b")
}

/// Ends the scope `unit` whose cgroup is at `path`, with whatever is in it; returns once it is gone. One that does not
/// exist is no error, and one of that name that is elsewhere is left alone.
pub fn stop(unit: &str, path: &Path) -> Result<()> {
    let below = path.strip_prefix(mount()?).unwrap_or(path);
    bus::stop(unit, &format!("/{}", below.display()))
}

/// Puts other limits in the place of the scope's until the next boot, as `systemctl set-property --runtime` does.
pub fn set(unit: &str, settings: &[Setting]) -> Result<()> {
    match property::of_settings(settings)? {
        properties if properties.is_empty() => Ok(()),
        properties => bus::set(unit, &properties),
    }
}

/// Where a slice's cgroup is below the mount: a dash in its name stands for a level (`systemd.slice(5)`). `None`
/// for what is no slice.
fn below(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(PathBuf::new());
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    if slice.len() > MAX_NAME || !name.bytes().all(legal) || name.split('-').any(str::is_empty) {
        return None;
    }
    let ends = name.match_indices('-').map(|(end, _)| end).chain([name.len()]);
    Some(ends.map(|end| format!("{}.slice", &name[..end])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(wanted: &str) -> Result<Scope> {
        Scope::of(&Roots::new(None, None).unwrap(), &"web".parse().unwrap(), Some(Path::new(wanted)))
    }

    #[test]
    fn a_path_of_three_parts_is_a_slice_and_a_unit() {
        for (wanted, slice, unit) in [
            ("machine.slice:libpod:0a1b", "machine.slice", "libpod-0a1b.scope"),
            (":docker:x", "system.slice", "docker-x.scope"),
            ("a-b.slice::x", "a-b.slice", "x.scope"),
            ("-.slice:runc:x", "-.slice", "runc-x.scope"),
        ] {
            let scope = scope(wanted).unwrap();
            assert_eq!((scope.slice.as_str(), scope.unit()), (slice, unit), "{wanted}");
        }
        let roots = Roots::new(None, None).unwrap();
        let own = |id: &str| Scope::of(&roots, &id.parse().unwrap(), None).unwrap().unit;
        assert_eq!(own("web"), "podrun-web.scope");
        assert_eq!(own("a+b"), "podrun-a\\x2bb.scope");
        let below = Scope::below_parent(&roots, &"a+b".parse().unwrap(), "machine.slice").unwrap();
        assert_eq!(scope(below.to_str().unwrap()).unwrap().unit, own("a+b"));
        assert!(Scope::below_parent(&roots, &"x".parse().unwrap(), "/tenants").is_err());
    }

    #[test]
    fn what_is_no_slice_and_no_unit_is_refused() {
        for wrong in [
            "/podrun/x",
            "x",
            "a:b",
            "a:b:c:d",
            "system:podrun:x",
            "system.slice:podrun:",
            "system.slice:podrun:../x",
            "system.slice:podrun:x.slice",
            "/etc.slice:podrun:x",
            "..slice/..:podrun:x",
            "-a.slice:podrun:x",
            "a--b.slice:podrun:x",
            "a-.slice:podrun:x",
            &format!(":podrun:{}", "x".repeat(250)),
        ] {
            assert!(scope(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_scope_comes_back_from_its_path() {
        for slice in ["-.slice", "system.slice", "a-b.slice"] {
            let scope = scope(&format!("{slice}:podrun:x")).unwrap();
            let path = Path::new("/sys/fs/cgroup").join(below(slice).unwrap()).join(scope.unit());
            assert_eq!(Scope::at(&path), Some(scope));
        }
    }

    #[test]
    fn a_dash_in_a_slice_is_a_level() {
        for (slice, path) in [
            ("-.slice", ""),
            ("system.slice", "system.slice"),
            ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
        ] {
            assert_eq!(below(slice).unwrap(), Path::new(path));
        }
    }
}

//! Network devices that move into the container: `linux.netDevices`.
//!
//! ```text
//!  parent                                         init, in the container's network namespace
//!    Waiting::find: each is there
//!      ── clone ─────────────────────────────────▶ builds; opens a netlink socket
//!    move_to, up, addresses   ◀── 'N', the socket ── waits
//!    hooks prestart, createRuntime ── 'G' ───────▶ hook createContainer, sysctls, …
//!    Moved::keep              ◀── 'B' ──────────── built
//! ```
//!
//! The parent does it, over two sockets that speak for the two namespaces: init has no rights over the host's
//! devices where it is in a user namespace. What the kernel takes from a device on its way, its addresses and
//! that it is up, is given to it again; the specification wants no more, and routes are not.
//!
//! Until the container is built, whatever fails brings the devices back: the socket keeps the container's
//! namespace alive, although init may be gone. After that the kernel decides (`network_namespaces(7)`): with its
//! last process a namespace that no path holds goes, physical devices in it go back to the initial network namespace,
//! and virtual ones (veth, macvlan, …) are destroyed.

use std::os::fd::OwnedFd;

use oci_spec::runtime::LinuxNamespaceType;
use rustix::io::Errno;

use super::netlink::{Address, Index, Route};
use super::plan::Plan;
use crate::error::{Error, Result};
use crate::spec::net_device::NetDevice;

/// Where this process's own network namespace is found.
const OWN: &str = "/proc/self/ns/net";

/// Devices that are to be moved, and are there.
#[derive(Debug)]
pub(super) struct Waiting {
    host: Route,
    devices: Vec<NetDevice>,
}

impl Waiting {
    /// Those of `plan`, where it has some.
    pub(super) fn find(plan: &Plan) -> Result<Option<Self>> {
        if plan.net_devices.is_empty() {
            return Ok(None);
        }
        somewhere_else(plan)?;
        let mut host = open()?;
        for device in &plan.net_devices {
            host.link(&device.host).map_err(|errno| missing(device, errno))?;
        }
        Ok(Some(Self { host, devices: plan.net_devices.clone() }))
    }

    /// Moves them into the network namespace of `init`, for which `there` speaks. After a failure all are back.
    pub(super) fn move_to(self, init: i32, there: OwnedFd) -> Result<Moved> {
        let mut moved = Moved { host: self.host, there: there.into(), origins: Vec::new() };
        self.devices.iter().try_for_each(|device| moved.add(device, init))?;
        Ok(moved)
    }
}

/// Init: the socket that speaks for the network namespace it is in.
pub(super) fn open_there() -> Result<OwnedFd> {
    open().map(OwnedFd::from)
}

/// Devices that are in the container: brought back when this is dropped, unless they are [kept](Self::keep) there.
#[derive(Debug)]
pub(super) struct Moved {
    host: Route,
    there: Route,
    origins: Vec<Origin>,
}

/// What a device was before it moved.
#[derive(Debug)]
struct Origin {
    name: String,
    up: bool,
    addresses: Vec<Address>,
    /// Which one it is in the container.
    there: Index,
}

impl Moved {
    /// Leaves them where they are.
    pub(super) fn keep(mut self) {
        self.origins.clear();
    }

    fn add(&mut self, device: &NetDevice, init: i32) -> Result<()> {
        let host = &device.host;
        let link = self.host.link(host).map_err(|errno| missing(device, errno))?;
        let addresses = self.host.addresses(link.index);
        let addresses = addresses.map_err(|errno| failed(device, "read the addresses of", "", errno))?;
        let name = self.free_name(device)?;
        let new = device.name.is_some().then_some(name.as_str());
        self.host.move_to(link.index, init, new).map_err(|errno| immovable(device, errno))?;
        // Its number is another one where that was taken.
        let there =
            self.there.link(&name).map_err(|errno| failed(device, "find", " in the container", errno))?;
        self.origins.push(Origin { name: link.name, up: link.up, addresses, there: there.index });
        let Some(origin) = self.origins.last() else { return Ok(()) };
        for address in &origin.addresses {
            self.there.add(there.index, address).map_err(|errno| {
                let error = failed(device, "keep an address of", " in the container", errno);
                match errno {
                    Errno::ACCESS => error.hint("IPv6 is disabled in the container's network namespace"),
                    _ => error,
                }
            })?;
        }
        self.there.up(there.index).map_err(|errno| failed(device, "bring up", " in the container", errno))?;
        tracing::debug!("the network device {host} is {name} in the container");
        Ok(())
    }

    /// What it will be called. The kernel renames a device only once it has moved: a name that is taken must be
    /// found out before.
    fn free_name(&mut self, device: &NetDevice) -> Result<String> {
        for name in device.names() {
            match self.there.link(&name) {
                Err(Errno::NODEV) => return Ok(name),
                Ok(_) => {}
                Err(errno) => return Err(failed(device, "look for a name for", " in the container", errno)),
            }
        }
        let name = device.name.as_ref().unwrap_or(&device.host);
        Err(Error::os(format!("name the network device {} {name} in the container", device.host), Errno::EXIST)
            .hint("the container's network namespace has a device of that name; linux.netDevices can give it another"))
    }

    fn bring_back(&mut self, origin: &Origin) -> Result<(), Errno> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        self.there.move_to(origin.there, own, Some(&origin.name))?;
        let here = self.host.link(&origin.name)?.index;
        for address in &origin.addresses {
            self.host.add(here, address)?;
        }
        if origin.up { self.host.up(here) } else { Ok(()) }
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        for origin in std::mem::take(&mut self.origins).into_iter().rev() {
            if let Err(errno) = self.bring_back(&origin) {
                let error = Error::os(format!("bring back the network device {}", origin.name), errno);
                tracing::warn!("{error}");
            }
        }
    }
}

fn open() -> Result<Route> {
    Route::open().map_err(|errno| Error::os("open a netlink socket", errno))
}

/// Refuses a network namespace by path that is this process's own: nothing would move, and all else be changed.
fn somewhere_else(plan: &Plan) -> Result<()> {
    let mut joined = plan.namespaces.joined.iter();
    let Some((_, path)) = joined.find(|(kind, _)| *kind == LinuxNamespaceType::Network) else {
        return Ok(());
    };
    let which = |path: &std::path::Path| {
        let stat = rustix::fs::stat(path).map_err(|errno| Error::at("look at", path, errno))?;
        Ok((stat.st_dev, stat.st_ino))
    };
    if which(path)? == which(OWN.as_ref())? {
        let what = format!("config linux.netDevices: the network namespace {}", path.display());
        return Err(Error::usage(what, "is the one that the devices are in"));
    }
    Ok(())
}

fn failed(device: &NetDevice, what: &str, whereabouts: &str, errno: Errno) -> Error {
    Error::os(format!("{what} the network device {}{whereabouts}", device.host), errno)
}

fn missing(device: &NetDevice, errno: Errno) -> Error {
    let error = failed(device, "find", "", errno);
    match errno {
        Errno::NODEV => error.hint(
            "linux.netDevices names devices of podrun's own network namespace; one that a container had is destroyed \
             with it, or back in the initial network namespace",
        ),
        _ => error,
    }
}

fn immovable(device: &NetDevice, errno: Errno) -> Error {
    let error = failed(device, "move", " into the container", errno);
    match errno {
        Errno::INVAL => error.hint("devices like lo, or a bridge, belong to one network namespace for good"),
        Errno::PERM => error.hint("it takes CAP_NET_ADMIN over both network namespaces"),
        _ => error,
    }
}

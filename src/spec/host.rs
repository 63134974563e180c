//! What compiling a container needs to know of the host: read once, then passed as values.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use crate::error::{Error, Result};
use crate::spec::device::Device;
use crate::spec::mount_flag::MountFlag;
use crate::spec::options::Options;
use crate::spec::profile;
use crate::spec::rootfiles;
use crate::spec::volume::Volume;
use crate::spec::walls::{Profile, Walls};

/// The host, as far as it goes into a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// The root filesystem: absolute, and an existing directory.
    pub rootfs: PathBuf,
    /// What `--volume` and `--mount` ask for: with absolute sources that exist.
    pub mounts: Vec<Mount>,
    /// What `--device` asks for.
    pub granted: Vec<Device>,
    /// The host's `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// The host's `/etc/hosts`.
    pub hosts: String,
    /// The hostname, for a container that shares it.
    pub hostname: String,
    /// The kernel's major and minor version.
    pub kernel: (u32, u32),
    /// The seccomp profile that was asked for, as it is in its file.
    pub seccomp: Option<String>,
    /// Which of [`rootfiles::NAMES`] the root filesystem has.
    pub has: [bool; 3],
}

impl Host {
    /// Reads what `options` need.
    pub fn read(options: &Options) -> Result<Self> {
        let absolute =
            |path: &Path| std::path::absolute(path).map_err(|error| Error::io("resolve", path, &error));
        let rootfs = absolute(&options.rootfs.dir)?;
        let metadata = rootfs.metadata().map_err(|error| {
            Error::io("rootfs", &rootfs, &error)
                .hint("--rootfs DIR is an unpacked root filesystem; `/:O` is the host's own")
        })?;
        if !metadata.is_dir() {
            return Err(Error::failed(format!("rootfs {}", rootfs.display()), "not a directory")
                .hint("--rootfs DIR is an unpacked root filesystem, not an archive or an image"));
        }
        // In a directory that was deleted only a relative source is missing.
        let base = std::env::current_dir().unwrap_or_default();
        let mut host = Self { rootfs, ..Self::default() };
        for text in &options.volumes {
            host.mounts.push(existing(&Volume::parse(text, &base)?)?);
        }
        for text in &options.mounts {
            host.mounts.push(match MountFlag::parse(text, &base)? {
                MountFlag::Bind(volume) => existing(&volume)?,
                MountFlag::Tmpfs(mount) => mount,
            });
        }
        for text in &options.devices {
            host.granted.extend(Device::find(text)?);
        }
        host.read_for(&options.walls)?;
        if options.rootfs.overlay || options.read_only {
            host.resolv_conf = text_of("/etc/resolv.conf")?;
            host.hosts = text_of("/etc/hosts")?;
            let etc = host.rootfs.join("etc");
            host.has = rootfiles::NAMES.map(|name| etc.join(name).symlink_metadata().is_ok());
        }
        Ok(host)
    }

    /// Reads what the walls need.
    fn read_for(&mut self, walls: &Walls) -> Result<()> {
        let uname = rustix::system::uname();
        self.hostname = uname.nodename().to_string_lossy().into_owned();
        self.kernel = profile::version(&uname.release().to_string_lossy()).unwrap_or_default();
        if let Profile::File(path) = &walls.security.seccomp {
            let text = std::fs::read_to_string(path);
            self.seccomp = Some(text.map_err(|error| Error::io("read seccomp profile", path, &error))?);
        }
        if walls.privileged {
            // But those that every container has its own of.
            let own = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console", "/dev/ptmx"];
            let others = |device: &Device| !own.iter().any(|own| device.place.starts_with(own));
            self.granted.extend(Device::find("/dev")?.into_iter().filter(others));
        }
        Ok(())
    }
}

/// The mount of a volume whose source exists; also of a symlink: what it points to is what is mounted.
fn existing(volume: &Volume) -> Result<Mount> {
    volume.source.metadata().map_err(|error| {
        Error::io("volume source", &volume.source, &error).hint(
            "it has to be a file or directory of this host: podrun makes none, and has no named volumes",
        )
    })?;
    Ok(volume.mount())
}

/// A small file of the host; an absent one is empty.
fn text_of(path: &str) -> Result<String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Error::io("read", path, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_rootfs_or_volume_source_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let options = |rootfs: &str| Options::new(rootfs.parse().unwrap(), vec!["x".into()]);
        let error = Host::read(&options(&format!("{path}/no"))).unwrap_err();
        assert_eq!(error.to_string(), format!("rootfs {path}/no: no such file or directory"));
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(Host::read(&options(&format!("{path}/file"))).unwrap_err().why, "not a directory");
        let mut options = options(path);
        options.volumes = vec![format!("{path}/no:/x")];
        assert_eq!(
            Host::read(&options).unwrap_err().to_string(),
            format!("volume source {path}/no: no such file or directory"),
        );
    }
}

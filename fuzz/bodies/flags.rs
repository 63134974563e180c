//! What people and their scripts put behind flags: an error, or a value.

use std::path::Path;

use podrun::paths::ContainerId;
use podrun::spec::logging::Logging;
use podrun::spec::mount_flag::MountFlag;
use podrun::spec::volume::{self, Volume};
use podrun::spec::walls::Security;
use podrun::spec::{env, signal};

pub(super) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let base = Path::new("/base");
    if let Ok(volume) = Volume::parse(text, base) {
        assert!(volume.mount().destination().is_absolute());
    }
    let _ = MountFlag::parse(text, base);
    if let Ok(mount) = volume::tmpfs(text) {
        assert!(mount.destination().is_absolute());
    }
    let _ = Security::parse(&[text.to_owned()]);
    if let Ok(logging) = Logging::parse(&[] as &[&str], &[text]) {
        assert!(logging.max_files >= 1);
    }
    for entry in env::file("file", text, &|_| None).into_iter().flatten() {
        assert!(entry.contains('='), "{entry:?}");
    }
    if let Ok(number) = signal::parse(text) {
        assert_eq!(signal::parse(&signal::name(number)).ok(), Some(number));
    }
    if let Ok(id) = text.parse::<ContainerId>() {
        assert!(
            !id.as_str().contains(['/', '\0']) && !id.as_str().starts_with('.') && id.as_str().len() <= 128
        );
    }
}

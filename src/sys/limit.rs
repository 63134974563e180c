//! What a process is limited to by whoever called podrun, and a shim must not be.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What must end neither a shim nor a log.
pub const LIFTED: [Resource; 4] = [Resource::Fsize, Resource::Cpu, Resource::As, Resource::Data];

/// With fewer descriptors a shim could not even tell that it has too few.
pub const DESCRIPTORS: u64 = 64;

/// Lifts a limit of this process; without CAP_SYS_RESOURCE up to the hard limit.
pub fn lift(resource: Resource) -> Result<(), Errno> {
    raise(resource, Rlimit { current: None, maximum: None })
}

/// Whatever limits this process, a shim that it becomes works. Best effort; allocates nothing.
pub(super) fn suit_a_shim() {
    for resource in LIFTED {
        let _ = lift(resource);
    }
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|few| few < DESCRIPTORS) {
        let maximum = maximum.map(|most| most.max(DESCRIPTORS));
        let _ = raise(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum });
    }
}

fn raise(resource: Resource, wanted: Rlimit) -> Result<(), Errno> {
    let limit = getrlimit(resource);
    let most = Rlimit { current: limit.maximum, ..limit };
    setrlimit(resource, wanted).or_else(|_| setrlimit(resource, most))
}

//! What a process is limited to by whoever called podrun, and a shim must not be.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// One limit, and what it is called.
#[derive(Debug)]
pub struct Limit {
    /// Which.
    pub resource: Resource,
    /// As `--ulimit` names it.
    pub name: &'static str,
    /// As a shell's `ulimit` does.
    pub letter: &'static str,
    /// The least that will do for a shim.
    pub least: u64,
}

const fn limit(resource: Resource, name: &'static str, letter: &'static str, least: u64) -> Limit {
    Limit { resource, name, letter, least }
}

/// What must end neither a shim nor a log.
pub static LIFTED: [Limit; 4] = [
    limit(Resource::Fsize, "fsize", "-f", 1 << 30),
    limit(Resource::Cpu, "cpu", "-t", u64::MAX),
    limit(Resource::As, "as", "-v", 1 << 30),
    limit(Resource::Data, "data", "-d", 1 << 30),
];

/// With fewer descriptors a shim could not even tell that it has too few.
pub const DESCRIPTORS: u64 = 64;

static OPEN_FILES: Limit = limit(Resource::Nofile, "nofile", "-n", DESCRIPTORS);

/// The first limit of this process that a shim started by it could not live with, nor lift: a hard one, without
/// CAP_SYS_RESOURCE.
pub fn obstacle() -> Option<&'static Limit> {
    LIFTED.iter().chain([&OPEN_FILES]).find(|limit| {
        let now = getrlimit(limit.resource);
        if now.maximum.is_none_or(|most| most >= limit.least) {
            return false;
        }
        // Whether it may be lifted is only known to who tries.
        let may = setrlimit(limit.resource, Rlimit { maximum: None, ..now }).is_ok();
        if may {
            let _ = setrlimit(limit.resource, now);
        }
        !may
    })
}

/// Lifts a limit of this process; without CAP_SYS_RESOURCE up to the hard limit.
pub fn lift(resource: Resource) -> Result<(), Errno> {
    raise(resource, Rlimit { current: None, maximum: None })
}

/// Whatever limits this process, a shim that it becomes works. Best effort; allocates nothing.
pub(super) fn suit_a_shim() {
    for limit in &LIFTED {
        let _ = lift(limit.resource);
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

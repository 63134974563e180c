//! Which system calls a process may make: podrun's own filter, or the configuration's.
//!
//! ```text
//!  spec.json ─▶ annotation dev.podrun.seccomp=default ─▶ default ─┐
//!            └▶ linux.seccomp ─▶ oci ─────────────────────────────┴▶ Sections ─▶ bpf ─▶ Filter ─▶ load
//! ```
//!
//! The compiler is podrun's own: `seccompiler` knows two verdicts a filter, kills at a foreign
//! architecture, and tests one number after the other. It takes microseconds, and each process makes its own
//! before it executes, in memory that goes with the `execve`; but a shim that is asked for one exec after the other
//! keeps podrun's own until it rests: a copy of its memory finds nothing that was compiled in the caches.

mod bpf;
mod default;
mod notify;
mod oci;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) use notify::Notify;
use oci_spec::runtime::{LinuxSeccomp, Spec};
use rustix::thread::CapabilitySet;

use super::credentials::CapabilityPlan;
use crate::error::{Error, Result};
use crate::spec::settings::{Seccomp, Settings};
use crate::sys::seccomp::{self, Instruction};

/// `AUDIT_ARCH_*` (`linux/audit.h`) of this build.
#[cfg(target_arch = "x86_64")]
const NATIVE_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE_ARCH: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const NATIVE_ARCH: u32 = 0xc000_00f3;
/// `AUDIT_ARCH_I386`
#[cfg(target_arch = "x86_64")]
const X86: u32 = 0x4000_0003;

/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`: a filter is no reason to switch off speculation in the whole
/// process. Kernels since 5.16 do not by themselves, older ones did at a cost that all feel.
const SPEC_ALLOW: u32 = 4;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER` (Linux 5.0)
const NEW_LISTENER: u32 = 8;

/// A filter, ready to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`
    flags: u32,
}

/// Which filter a process shall have.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wanted {
    /// podrun's own, for a process with this bounding set.
    Default(CapabilitySet),
    /// `linux.seccomp`.
    Configured(LinuxSeccomp),
}

impl Wanted {
    /// The filter for a process of the container that `spec` describes, which will have
    /// `capabilities`; `None` where it is not filtered.
    pub(super) fn of(spec: &Spec, settings: &Settings, capabilities: Option<CapabilityPlan>) -> Option<Self> {
        if settings.seccomp == Seccomp::Default {
            return Some(Self::Default(capabilities.map_or(CapabilitySet::all(), |plan| plan.bounding)));
        }
        spec.linux().as_ref().and_then(|linux| linux.seccomp().clone()).map(Self::Configured)
    }

    /// The program.
    pub(super) fn compile(&self) -> Result<Filter> {
        match self {
            Self::Default(capabilities) => {
                let program = bpf::compile(&default::sections(*capabilities));
                Ok(Filter { program, flags: SPEC_ALLOW })
            }
            Self::Configured(wanted) => oci::filter(wanted),
        }
    }
}

/// podrun's own filter that was compiled last, and for which bounding set.
static KEPT: Mutex<Option<(CapabilitySet, Filter)>> = Mutex::new(None);

fn kept() -> MutexGuard<'static, Option<(CapabilitySet, Filter)>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps no filter any more.
pub(super) fn forget() {
    *kept() = None;
}

impl Wanted {
    /// The program, where it is podrun's own: kept from the last time, and for the next.
    pub(super) fn own(&self) -> Result<Option<Filter>> {
        let Self::Default(capabilities) = self else { return Ok(None) };
        let mut kept = kept();
        if let Some((of, filter)) = &*kept
            && of == capabilities
        {
            return Ok(Some(filter.clone()));
        }
        let filter = self.compile()?;
        *kept = Some((*capabilities, filter.clone()));
        Ok(Some(filter))
    }
}

impl Filter {
    /// Loads it, and tells `notify` where it asks somebody. Nothing but `execve` may follow: the filter judges
    /// this process already.
    pub(super) fn load(&self, notify: Option<&Notify>) -> Result<()> {
        let listener = seccomp::load(&self.program, self.flags).map_err(|error| {
            let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
            Error::os("load the seccomp filter", errno)
        })?;
        match (listener, notify) {
            (Some(listener), Some(notify)) => notify.hand_over(&listener),
            (Some(_), None) => Err(Error::failed("load the seccomp filter", "its listener is not known")),
            (None, _) => Ok(()),
        }
    }
}

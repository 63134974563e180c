//! `bpf(2)`, as far as device programs need it: load, attach, replace.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;

// `linux/bpf.h`
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 1 << 1;
const REPLACE: u32 = 1 << 2;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Instruction {
    /// Class, operation, and where the operand is.
    pub code: u8,
    /// The destination register, and the source register above it.
    pub registers: u8,
    /// How far to jump, or where in the context to load from.
    pub offset: i16,
    /// The operand.
    pub immediate: i32,
}

/// The part of `union bpf_attr` that PROG_LOAD reads; the rest is zero (`bpf(2)`).
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The part that PROG_ATTACH reads.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

/// The part that PROG_QUERY reads and writes.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    /// Later kernels answer with more (`revision`, Linux 6.17) whatever size was said.
    rest: [u32; 25],
}

#[expect(unsafe_code, reason = "bpf has no wrapper")]
fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attribute` is live and of the size that is said; every address in it is of live
    // memory of its caller, who has given that memory's size beside it.
    super::check(unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>())
    })
}

#[expect(unsafe_code, reason = "a raw descriptor becomes owned")]
fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = result.try_into().map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    // SAFETY: the kernel has just made this descriptor (CLOEXEC, as all of bpf's), for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

/// Loads a device program; fails with EINVAL or EACCES where the verifier refuses it, or the kernel was
/// built without CONFIG_CGROUP_BPF.
pub fn load_device_program(program: &[Instruction]) -> io::Result<OwnedFd> {
    const LICENSE: &CStr = c"MIT";
    let count = program.len().try_into().map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let mut name = [0; 16];
    name[..13].copy_from_slice(b"podrun_device");
    let mut load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count,
        instructions: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        name,
        ..Load::default()
    };
    descriptor(bpf(PROG_LOAD, &mut load)?)
}

/// Attaches `program` to `cgroup`, beside those of the cgroups above, or in the place of `replaced`.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attach = Attach {
        target: raw(cgroup),
        program: raw(program),
        kind: CGROUP_DEVICE,
        flags: if replaced.is_some() { ALLOW_MULTI | REPLACE } else { ALLOW_MULTI },
        replaced: replaced.map_or(0, raw),
    };
    bpf(PROG_ATTACH, &mut attach).map(drop)
}

/// The device program that is attached to `cgroup` itself, the first where there are several; `None` where there
/// is none.
pub fn device_program(cgroup: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let Some(id) = device_programs(cgroup)?.first().copied() else { return Ok(None) };
    // `bpf_prog_get_fd_by_id` reads the id and two words that stay zero.
    let mut by_id = [id, 0, 0];
    descriptor(bpf(PROG_GET_FD_BY_ID, &mut by_id)?).map(Some)
}

/// The [numbers](program_id) of the device programs that are attached to `cgroup` itself.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; 64];
    let mut query = Query {
        target: raw(cgroup),
        kind: CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: 64,
        ..Query::default()
    };
    bpf(PROG_QUERY, &mut query)?;
    ids.truncate(query.count.try_into().unwrap_or(0));
    Ok(ids)
}

/// The kernel's number of a program, as `bpftool` shows it.
pub fn program_id(program: BorrowedFd<'_>) -> Option<u32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("prog_id:"))?.trim().parse().ok()
}

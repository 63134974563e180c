//! Starting a program that belongs to nobody: how a command leaves a shim behind.
//!
//! ```text
//!  command ──clone3(VM, VFORK)──▶ intermediate ──clone3(VM, VFORK, INTO_CGROUP)──▶ program
//!     │ sleeps until it is done       │ makes the image that is executed               │ execve
//!     ▼ reads errno                   │ sleeps until then, and exits                   ▼ reparents
//!  Leaving: reaps it                  ▼ takes down the image's mount
//! ```
//!
//! Both children borrow the caller's memory instead of copying its page tables, and the caller
//! sleeps meanwhile: nothing is copied, and a failed `execve` leaves its errno where the
//! caller finds it. The image's mount is taken down by whoever closes it last, who then waits for
//! every processor (RCU, 0.2 ms and more): that is the intermediate, as it exits, and
//! the caller has gone on by then.

use std::arch::asm;
use std::ffi::{CStr, CString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::libc;
use rustix::fs::{Mode, OFlags};

use super::clone::{CLEAR_SIGHAND, CloneArgs, INTO_CGROUP, exit};
use super::fd::{Fate, all_but};
use super::{limit, program, signal};

/// What is to be executed.
#[derive(Clone, Copy, Debug)]
pub enum Program<'a> {
    /// An open program. Not a script: its interpreter could not open it again.
    Fd(BorrowedFd<'a>),
    /// A program by path.
    Path(&'a CStr),
}

/// Everything the program's process needs, laid out before it exists: it must not allocate.
struct Job<'a> {
    program: OwnedFd,
    /// It is executed as it is, being an image that nobody can write.
    is_image: bool,
    /// No image could be had without copying it.
    unviewable: bool,
    /// The image, among the descriptors of the two children alone.
    image: RawFd,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    null: OwnedFd,
    keep: &'a [(BorrowedFd<'a>, RawFd)],
    /// `keep`'s sources, moved above every target so that no move overwrites a later source.
    moved: Vec<AtomicI32>,
    /// The targets and 0, 1, 2: sorted.
    targets: Vec<RawFd>,
    cgroup: Option<BorrowedFd<'a>>,
    inner_stack: Stack,
    errno: AtomicI32,
}

/// A child's stack. Never written before it is one: of its pages only those exist that were used.
type Stack = Box<[MaybeUninit<u8>]>;

/// Where a child's stack is.
enum Room<'a> {
    At(&'a mut [MaybeUninit<u8>]),
    /// Below the frame of whoever makes it, as after `vfork`: nothing has to be mapped, and what protects this
    /// thread's own stack protects the child's.
    Below,
}

/// Small functions on a flat path; nothing here recurses.
const STACK: usize = 64 * 1024;
/// What the maker of a child keeps below its stack pointer: more than the red zone of any ABI (128 bytes).
const OWN_FRAME: u64 = 1 << 10;

/// Starts `program` as a grandchild that reparents away: in a session of its own, with no signal
/// blocked or ignored, in `/`, with `/dev/null` on 0, 1 and 2, and with exactly the descriptors of
/// `keep` at the numbers given there; in `cgroup` from its first instruction on. What limits the caller and
/// would end a shim ([`limit`]) is lifted as far as it may be.
///
/// It runs from an image that nobody can write through `/proc/PID/exe`: see [`program`]. There it reads
/// `/` as its own path. That holds once [`Leaving`] is gone.
pub fn detached(
    program: Program<'_>,
    args: &[CString],
    env: &[CString],
    keep: &[(BorrowedFd<'_>, RawFd)],
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Leaving> {
    let program = match program {
        Program::Fd(fd) => fd.try_clone_to_owned()?,
        Program::Path(path) => rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
    };
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mut targets: Vec<RawFd> = keep.iter().map(|(_, target)| *target).chain(0..3).collect();
    targets.sort_unstable();
    targets.dedup();
    let mut job = Job {
        program,
        is_image: false,
        unviewable: false,
        image: -1,
        argv: pointers(args),
        envp: pointers(env),
        null,
        keep,
        moved: keep.iter().map(|_| AtomicI32::new(-1)).collect(),
        targets,
        cgroup,
        inner_stack: Box::new_uninit_slice(STACK),
        errno: AtomicI32::new(0),
    };
    let mut leaving = job.run()?;
    if job.unviewable {
        (job.program, job.is_image) = (program::sealed_copy(&job.program)?, true);
        leaving = job.run()?;
    }
    match job.errno.load(Ordering::Relaxed) {
        0 => Ok(leaving),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// The process in between, on its way out: dropped, it is gone, and what it had with it.
#[derive(Debug)]
#[must_use]
pub struct Leaving(i32);

impl Drop for Leaving {
    fn drop(&mut self) {
        reap(self.0);
    }
}

impl Job<'_> {
    fn run(&mut self) -> io::Result<Leaving> {
        let mut stack: Stack = Box::new_uninit_slice(STACK);
        let _blocked = signal::block_all()?;
        // No SIGCHLD: the caller's loop does not hear of this child, and an ignored SIGCHLD (inherited
        // from the caller's caller) does not reap it before we do.
        let args = CloneArgs { flags: CLEAR_SIGHAND, ..CloneArgs::default() };
        borrowing_child(args, Room::At(&mut stack), intermediate, self).map(Leaving)
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

#[expect(unsafe_code, reason = "__WALL is needed for a child without an exit signal")]
fn reap(pid: i32) {
    // SAFETY: a null status is allowed.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) } < 0
        && io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
    {}
}

extern "C" fn intermediate(job: &mut Job<'_>) -> ! {
    job.image = match job.is_image {
        true => job.program.as_raw_fd(),
        // Not closed by anybody who could have to wait: see the head of this module.
        false => match program::read_only_view(&job.program) {
            Ok(view) => view.into_raw_fd(),
            Err(_) => {
                job.unviewable = true;
                exit(0)
            }
        },
    };
    let mut args =
        CloneArgs { flags: CLEAR_SIGHAND, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    if let Some(cgroup) = job.cgroup {
        args.flags |= INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    let mut stack = std::mem::take(&mut job.inner_stack);
    match borrowing_child(args, Room::At(&mut stack), last, job) {
        Ok(pid) => {
            if job.errno.load(Ordering::Relaxed) != 0 {
                reap(pid);
            }
        }
        Err(error) => fail(job, &error),
    }
    job.inner_stack = stack;
    exit(0)
}

extern "C" fn last(job: &mut Job<'_>) -> ! {
    if let Err(error) = become_program(job) {
        fail(job, &error);
    }
    exit(127)
}

fn fail(job: &Job<'_>, error: &io::Error) {
    job.errno.store(error.raw_os_error().unwrap_or(libc::EIO), Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "moves descriptors to given numbers, and executes")]
fn become_program(job: &mut Job<'_>) -> io::Result<()> {
    limit::suit_a_shim();
    let above = job.targets.last().map_or(3, |last| last + 1);
    let check = |result: libc::c_int| super::check(result.into());
    // SAFETY: integers only. This process's descriptor table is its own, and it owns no object
    // whose descriptor these moves could replace: it ends in execveat or _exit.
    unsafe {
        check(libc::setsid())?;
        check(libc::chdir(c"/".as_ptr()))?;
        for ((source, _), moved) in job.keep.iter().zip(&job.moved) {
            let fd = libc::fcntl(source.as_raw_fd(), libc::F_DUPFD_CLOEXEC, above);
            check(fd)?;
            moved.store(fd, Ordering::Relaxed);
        }
        // These two might themselves lie on a target.
        let program = libc::fcntl(job.image, libc::F_DUPFD_CLOEXEC, above);
        check(program)?;
        let null = libc::fcntl(job.null.as_raw_fd(), libc::F_DUPFD_CLOEXEC, above);
        check(null)?;
        for stdio in 0..3 {
            check(libc::dup2(null, stdio))?;
        }
        for ((_, target), moved) in job.keep.iter().zip(&job.moved) {
            check(libc::dup2(moved.load(Ordering::Relaxed), *target))?;
        }
        all_but(&job.targets, Fate::CloseOnExec)?;
        signal::reset();
        // SAFETY: both vectors end in a null, and their strings outlive the caller's sleep.
        super::check(libc::syscall(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            job.argv.as_ptr(),
            job.envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        ))?;
    }
    Ok(())
}

/// Runs `step` on `argument` in a process that has this one's memory, but descriptors, namespaces and credentials
/// of its own; returns once it has ended, and knows what was written. As after `vfork`, nothing is copied, and this
/// process, which must have one thread, sleeps meanwhile: `step` must be quick, and own nothing when it returns that
/// it has made with its own descriptors.
pub fn aside<T>(argument: &mut T, step: fn(&mut T)) -> io::Result<()> {
    struct Aside<'a, T> {
        argument: &'a mut T,
        step: fn(&mut T),
    }
    extern "C" fn run<T>(aside: &mut Aside<'_, T>) -> ! {
        (aside.step)(aside.argument);
        exit(0)
    }
    let _blocked = signal::block_all()?;
    // `as`: a small positive constant. Its siblings have the same (CLONE_PARENT): without a signal nobody could wait.
    let exit_signal = libc::SIGCHLD as u64;
    let args = CloneArgs { flags: CLEAR_SIGHAND, exit_signal, ..CloneArgs::default() };
    let pid = borrowing_child(args, Room::Below, run::<T>, &mut Aside { argument, step })?;
    reap(pid);
    Ok(())
}

/// A child in this process's own memory. This process sleeps until the child executes or ends, as after `vfork`.
#[inline(never)]
#[expect(unsafe_code, reason = "a clone with CLONE_VM returns on another stack: no C function can")]
fn borrowing_child<T>(
    mut args: CloneArgs,
    room: Room<'_>,
    child: extern "C" fn(&mut T) -> !,
    argument: &mut T,
) -> io::Result<i32> {
    // `as`: positive constants.
    args.flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    let (low, high) = match room {
        Room::At(stack) => {
            let range = stack.as_mut_ptr_range();
            (range.start as u64, range.end as u64)
        }
        Room::Below => {
            let high = stack_pointer() - OWN_FRAME;
            (high - STACK as u64, high)
        }
    };
    args.stack = low;
    // The ABI wants the stack aligned to 16 where a function is called.
    args.stack_size = (high & !15) - low;
    let result: isize;
    let argument = std::ptr::from_mut(argument);
    // SAFETY: the child runs on a stack that outlives it, since CLONE_VFORK keeps this thread (the
    // only one that could use what `argument` borrows) asleep until the child is done with this
    // memory. Below this frame nothing is alive then: this function, whose own frame is above, calls nothing but
    // the system, and callers blocked every signal. The child never comes back from `child`. All other registers survive a system call.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") std::ptr::from_ref(&args),
            in("rsi") size_of::<CloneArgs>(),
            in("r12") argument,
            in("r13") child,
            lateout("rcx") _,
            lateout("r11") _,
        );
        #[cfg(target_arch = "aarch64")]
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") std::ptr::from_ref(&args) as isize => result,
            in("x1") size_of::<CloneArgs>(),
            in("x20") argument,
            in("x21") child,
            lateout("x30") _,
        );
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        compile_error!("podrun runs on x86_64 and aarch64: this clone needs a few lines for another one");
    }
    // The kernel returns -errno in the register.
    i32::try_from(result)
        .ok()
        .filter(|pid| *pid > 0)
        .ok_or_else(|| io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EIO)))
}

/// Where the caller's frame ends.
#[expect(unsafe_code, reason = "the stack pointer has no other name")]
#[inline(always)]
pub(super) fn stack_pointer() -> u64 {
    let here: u64;
    // SAFETY: copies a register.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!("mov {}, rsp", out(reg) here, options(nomem, nostack, preserves_flags));
        #[cfg(target_arch = "aarch64")]
        asm!("mov {}, sp", out(reg) here, options(nomem, nostack, preserves_flags));
    }
    here
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    fn output(script: &str, program: Program<'_>) -> io::Result<String> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let args = ["sh", "-c", script].map(|arg| CString::new(arg).unwrap());
        let _leaving =
            detached(program, &args, &[c"PATH=/bin:/usr/bin".to_owned()], &[(write.as_fd(), 5)], None)?;
        drop(write);
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn a_detached_program_has_nothing_of_its_caller() {
        let script = "exec >&5; pwd; echo /proc/$$/fd/*; ps -o ppid=,sid= -p $$; echo $$; \
                      exec grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status";
        // By exec: a shell that waits for another process blocks every signal for a moment.
        let text = output(script, Program::Path(c"/bin/sh")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "/");
        // 3 is the shell's own, while it expands the pattern.
        let fds: Vec<&str> = lines[1].split_whitespace().filter_map(|fd| fd.rsplit('/').next()).collect();
        assert_eq!(fds, ["0", "1", "2", "3", "5"], "{text}");
        let ids: Vec<&str> = lines[2].split_whitespace().collect();
        assert_ne!(ids[0], std::process::id().to_string());
        assert_eq!(ids[1], lines[3], "the leader of its own session");
        assert!(lines[4].ends_with("0000000000000000") && lines[5].ends_with("0000000000000000"), "{text}");
    }

    #[test]
    fn a_detached_program_cannot_be_written_by_anyone() {
        let dir = tempfile::tempdir().unwrap();
        // By another process: a test that forks at this moment must not hold the writing end.
        std::process::Command::new("cp").args(["/bin/bash"]).arg(dir.path()).status().unwrap();
        let file = std::fs::File::open(dir.path().join("bash")).unwrap();
        // Once nobody runs it any more, or the answer would be ETXTBSY.
        let script = "exec >&5 2>&1 6</proc/$$/exe; exec sh -c ': >>/proc/$$/fd/6'";
        let text = output(script, Program::Fd(file.as_fd())).unwrap();
        if rustix::process::geteuid().is_root() {
            assert!(text.contains("Read-only file system"), "{text}");
        }
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_the_callers_error() {
        let error = output("", Program::Path(c"/etc/passwd")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
        let error = output("", Program::Path(c"/nonexistent")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}

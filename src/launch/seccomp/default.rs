//! podrun's own filter: what programs need, and nothing that only the host's administrator does.
//!
//! An allow-list. A call that is not on it is refused with EPERM, or with ENOSYS where a program
//! should take the older way (clone3, whose flags a filter cannot read) or cannot know better (what
//! is newer than this list). A call that needs a capability anyhow is allowed with that capability.
//!
//! What is left out, and why:
//!
//! | calls | they would |
//! |---|---|
//! | namespaces (clone, unshare, setns), mount and its relatives | make a root of one's own, from which much of the kernel can be reached |
//! | add_key, keyctl, request_key | reach keyrings, which no namespace separates |
//! | bpf, perf_event_open, userfaultfd, io_uring | reach the parts of the kernel that most exploits of the last years went through |
//! | init_module, kexec_load, reboot, swapon, settimeofday, iopl … | change the host |
//! | socket of any other than the usual families | load a module that hardly anybody maintains |
//! | ioctl TIOCSTI, TIOCLINUX | type into the terminal of whoever ran the command |

use rustix::thread::CapabilitySet;
use syscalls::Sysno;

use super::bpf::{Case, Condition, Is, Rule, Section, Verdict};

/// Which of the calls with numbers below 512 are in a set: each is a bit.
type Numbers = [u64; 8];

/// The same as `calls`, and ready before the program runs: every process makes its filter anew.
const fn numbers(calls: &[Sysno], mut set: Numbers) -> Numbers {
    let mut at = 0;
    while at < calls.len() {
        let number = calls[at].id() as usize;
        set[number / 64] |= 1 << (number % 64);
        at += 1;
    }
    set
}

/// Every process's.
const EVERYBODYS: Numbers = numbers(NATIVE, numbers(ALLOWED, [0; 8]));

/// The names of system calls, each checked by the compiler.
macro_rules! calls {
    ($($name:ident)*) => { [$(Sysno::$name),*] };
}

/// Allowed to every process, on every architecture.
#[rustfmt::skip]
const ALLOWED: &[Sysno] = &calls! {
    // Processes and threads
    execve execveat exit exit_group wait4 waitid kill tkill tgkill pidfd_open pidfd_send_signal
    process_mrelease ptrace process_vm_readv process_vm_writev getpid getppid gettid getpgid setpgid
    getsid setsid set_tid_address set_robust_list get_robust_list rseq futex futex_wait futex_wake
    futex_waitv futex_requeue membarrier restart_syscall prctl getcpu
    sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam
    sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max
    sched_get_priority_min sched_rr_get_interval getpriority setpriority ioprio_get ioprio_set
    getrlimit setrlimit prlimit64 getrusage times sysinfo uname umask
    // Who one is; what it takes is checked by the kernel
    getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid
    setresuid setresgid setfsuid setfsgid setgroups capget capset
    // Walls that a program builds for itself
    seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self lsm_get_self_attr
    lsm_list_modules
    // Signals
    rt_sigaction rt_sigprocmask rt_sigpending rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait sigaltstack signalfd4
    // Time
    clock_gettime clock_getres clock_nanosleep gettimeofday nanosleep getitimer setitimer
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
    timerfd_gettime timerfd_settime adjtimex clock_adjtime
    // Memory
    brk mmap munmap mremap mprotect madvise mincore msync mlock mlock2 mlockall munlock munlockall
    remap_file_pages pkey_alloc pkey_free pkey_mprotect memfd_create memfd_secret mseal
    map_shadow_stack get_mempolicy set_mempolicy mbind set_mempolicy_home_node
    // Files
    openat openat2 close close_range read write readv writev pread64 pwrite64 preadv pwritev preadv2
    pwritev2 lseek dup dup3 fcntl flock ftruncate truncate fallocate fadvise64 readahead sendfile
    copy_file_range splice tee vmsplice sync syncfs fsync fdatasync sync_file_range
    fstat statx fstatfs statfs faccessat faccessat2 fchmod fchmodat fchmodat2 fchown fchownat
    utimensat getcwd chdir fchdir mkdirat mknodat linkat symlinkat readlinkat renameat renameat2
    unlinkat getdents64 name_to_handle_at statmount listmount cachestat file_getattr file_setattr
    getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr
    llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat
    inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark
    io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents
    // Waiting
    epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 ppoll pselect6 eventfd2 pipe2
    // Sockets (see `socket` below) and System V and POSIX message passing
    socketpair bind listen accept accept4 connect getsockname getpeername getsockopt setsockopt
    sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown
    msgget msgsnd msgrcv msgctl semget semop semtimedop semctl shmget shmat shmdt shmctl
    mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
    // The rest
    getrandom
};

/// Allowed to every process, where the architecture has them.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const NATIVE: &[Sysno] = &calls! {
    open creat access chmod chown lchown link symlink readlink rename mkdir rmdir unlink mknod stat lstat
    newfstatat utime utimes futimesat getdents dup2 pipe poll select epoll_create epoll_wait
    epoll_ctl_old epoll_wait_old eventfd signalfd inotify_init alarm pause time fork vfork getpgrp
    arch_prctl modify_ldt get_thread_area set_thread_area uretprobe
};
#[cfg(not(target_arch = "x86_64"))]
const NATIVE: &[Sysno] = &calls! { fstatat };

/// Allowed with a capability that they need: the kernel still checks it, in the right namespace.
#[rustfmt::skip]
const PRIVILEGED: &[(CapabilitySet, &[Sysno])] = &[
    (CapabilitySet::SYS_ADMIN, &calls! {
        mount umount2 pivot_root fsopen fsconfig fsmount fspick open_tree open_tree_attr move_mount
        mount_setattr unshare setns clone clone3 sethostname setdomainname quotactl quotactl_fd
        fanotify_init bpf perf_event_open syslog lsm_set_self_attr swapon swapoff
    }),
    (CapabilitySet::BPF, &calls! { bpf }),
    (CapabilitySet::PERFMON, &calls! { perf_event_open }),
    (CapabilitySet::SYSLOG, &calls! { syslog }),
    (CapabilitySet::DAC_READ_SEARCH, &calls! { open_by_handle_at }),
    (CapabilitySet::SYS_BOOT, &calls! { reboot }),
    (CapabilitySet::SYS_CHROOT, &calls! { chroot }),
    (CapabilitySet::SYS_MODULE, &calls! { init_module finit_module delete_module }),
    (CapabilitySet::SYS_NICE, &calls! { move_pages migrate_pages }),
    (CapabilitySet::SYS_PACCT, &calls! { acct }),
    (CapabilitySet::SYS_PTRACE, &calls! { kcmp pidfd_getfd process_madvise }),
    (CapabilitySet::SYS_TIME, &calls! { settimeofday clock_settime }),
    (CapabilitySet::SYS_TTY_CONFIG, &calls! { vhangup }),
    #[cfg(target_arch = "x86_64")]
    (CapabilitySet::SYS_RAWIO, &calls! { iopl ioperm }),
];

/// `AF_UNIX`, `AF_INET`, `AF_INET6`, `AF_NETLINK`, `AF_PACKET`.
const FAMILIES: [u64; 5] = [1, 2, 10, 16, 17];

/// What a program may be told it runs on: Linux, 32-bit, and 2.6, but never without the
/// randomisation of addresses (`personality(2)`); the last one only asks.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `CLONE_NEW*`: mount, cgroup, uts, ipc, user, pid, net; and time, which is a signal to `clone`.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
const NEW_TIME: u64 = 0x80;

/// `ioctl_tty(2)`
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;

/// What the kernel takes of an `int` argument.
const INT: u64 = 0xffff_ffff;

const EPERM: Verdict = Verdict::errno(nix::libc::EPERM as u32);

/// `argument & mask == value`
fn when(index: u8, mask: u64, value: u64, verdict: Verdict) -> Case {
    Case { conditions: vec![Condition { index, is: Is::EqualIn(mask), value }], verdict }
}

/// The filter of a process whose bounding set is `capabilities`.
pub(super) fn sections(capabilities: CapabilitySet) -> Vec<Section> {
    let number = |call: Sysno| call.id().unsigned_abs();
    let mut allowed = EVERYBODYS;
    for (needed, calls) in PRIVILEGED {
        if capabilities.contains(*needed) {
            allowed = numbers(calls, allowed);
        }
    }
    let special = conditional(capabilities);
    let unknown = number(Sysno::last()) + 1;
    let mut rules = Vec::with_capacity(512);
    for at in 0..unknown {
        let bit = allowed.get(at as usize / 64).is_some_and(|word| word >> (at % 64) & 1 == 1);
        if let Some((_, rule)) = special.iter().find(|(call, _)| number(*call) == at) {
            rules.push((at, rule.clone()));
        } else if bit {
            rules.push((at, Verdict::ALLOW.into()));
        }
    }
    let native = Section { arch: super::NATIVE_ARCH, rules, default: EPERM, unknown };
    [Some(native), foreign()].into_iter().flatten().collect()
}

/// The calls that depend on more than their number, for a process with these capabilities.
fn conditional(capabilities: CapabilitySet) -> Vec<(Sysno, Rule)> {
    let one_of = |index, values: &[u64], otherwise| Rule {
        cases: values.iter().map(|value| when(index, INT, *value, Verdict::ALLOW)).collect(),
        otherwise,
    };
    let without = |index, bits| Rule { cases: vec![when(index, bits, 0, Verdict::ALLOW)], otherwise: EPERM };
    let typing = [TIOCSTI, TIOCLINUX].map(|request| when(1, INT, request, EPERM));
    // What a kernel without the family says.
    let no_family = Verdict::errno(nix::libc::EAFNOSUPPORT as u32);
    let is_admin = capabilities.contains(CapabilitySet::SYS_ADMIN);
    let mut rules = vec![
        (Sysno::personality, one_of(0, &PERSONALITIES, EPERM)),
        (
            Sysno::socket,
            match is_admin || capabilities.contains(CapabilitySet::NET_ADMIN) {
                true => Verdict::ALLOW.into(),
                false => one_of(0, &FAMILIES, no_family),
            },
        ),
        (
            Sysno::ioctl,
            Rule { cases: if is_admin { Vec::new() } else { typing.into() }, otherwise: Verdict::ALLOW },
        ),
    ];
    if !is_admin {
        rules.extend([
            (Sysno::clone, without(0, NEW_NAMESPACES)),
            (Sysno::unshare, without(0, NEW_NAMESPACES | NEW_TIME)),
            // Its flags are in memory, where a filter cannot look; libraries fall back to clone.
            (Sysno::clone3, Verdict::ENOSYS.into()),
        ]);
    }
    rules
}

/// A program of the 32-bit x86 finds a kernel without a single call, but for what it takes to say
/// so and to end: the numbers mean other things there, and a list of its own would be another wall
/// to keep.
fn foreign() -> Option<Section> {
    #[cfg(target_arch = "x86_64")]
    {
        use syscalls::x86::Sysno;
        let number = |call: Sysno| call.id().unsigned_abs();
        // By number.
        let allowed = [Sysno::exit, Sysno::write, Sysno::exit_group];
        let rules = allowed.into_iter().map(|call| (number(call), Verdict::ALLOW.into())).collect();
        Some(Section { arch: super::X86, rules, default: Verdict::ENOSYS, unknown: u32::MAX })
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

#[cfg(test)]
mod tests {
    use super::super::bpf::{compile, tests::Call, tests::run};
    use super::*;

    fn judge(capabilities: CapabilitySet, call: Sysno, args: [u64; 6]) -> Verdict {
        let program = compile(&sections(capabilities));
        run(&program, Call { arch: super::super::NATIVE_ARCH, number: call.id().unsigned_abs(), args })
    }

    fn plain(call: Sysno, first: u64) -> Verdict {
        judge(CapabilitySet::SYS_CHROOT, call, [first, 0, 0, 0, 0, 0])
    }

    #[test]
    fn the_program_is_small() {
        let length = compile(&sections(CapabilitySet::empty())).len();
        assert!(length < 200, "{length}");
    }

    #[test]
    fn every_rule_is_at_its_place() {
        for section in sections(CapabilitySet::empty()) {
            assert!(section.rules.is_sorted_by(|one, next| one.0 < next.0), "{:#x}", section.arch);
        }
    }

    #[test]
    fn arguments_matter_in_the_bits_that_the_kernel_reads() {
        let vm = 0x100;
        assert_eq!(plain(Sysno::clone, vm | 17), Verdict::ALLOW);
        for namespace in [0x2_0000, 0x1000_0000, 0x4000_0000] {
            assert_eq!(plain(Sysno::clone, vm | namespace), EPERM, "{namespace:#x}");
            assert_eq!(plain(Sysno::unshare, namespace), EPERM, "{namespace:#x}");
        }
        assert_eq!(plain(Sysno::unshare, 0x400), Verdict::ALLOW, "CLONE_FILES");
        assert_eq!(plain(Sysno::clone3, 0), Verdict::ENOSYS);
        assert_eq!(plain(Sysno::socket, 2), Verdict::ALLOW);
        assert_eq!(plain(Sysno::socket, 40), Verdict::errno(97), "AF_VSOCK");
        assert_eq!(plain(Sysno::socket, 1 << 32 | 40), Verdict::errno(97));
        assert_eq!(plain(Sysno::personality, 0x4_0000), EPERM, "ADDR_NO_RANDOMIZE");
        let ioctl = |request| judge(CapabilitySet::empty(), Sysno::ioctl, [0, request, 0, 0, 0, 0]);
        assert_eq!(ioctl(0x5401), Verdict::ALLOW, "TCGETS");
        assert_eq!(ioctl(TIOCSTI), EPERM);
        assert_eq!(ioctl(7 << 32 | TIOCSTI), EPERM, "the kernel reads 32 bits");
    }

    #[test]
    fn a_capability_opens_the_calls_that_need_it() {
        for call in [Sysno::mount, Sysno::bpf, Sysno::setns, Sysno::keyctl, Sysno::kexec_load] {
            assert_eq!(plain(call, 0), EPERM, "{call}");
        }
        let admin = |call| judge(CapabilitySet::SYS_ADMIN, call, [0x1000_0000, 0, 0, 0, 0, 0]);
        for call in [Sysno::mount, Sysno::bpf, Sysno::clone, Sysno::clone3, Sysno::unshare, Sysno::ioctl] {
            assert_eq!(admin(call), Verdict::ALLOW, "{call}");
        }
        assert_eq!(admin(Sysno::keyctl), EPERM);
        assert_eq!(judge(CapabilitySet::NET_ADMIN, Sysno::socket, [15, 0, 0, 0, 0, 0]), Verdict::ALLOW);
    }

    #[test]
    fn a_call_of_tomorrow_or_of_another_architecture_does_not_exist() {
        let program = compile(&sections(CapabilitySet::all()));
        let at = |arch, number| run(&program, Call { arch, number, args: [0; 6] });
        let tomorrow = Sysno::last().id().unsigned_abs() + 1;
        assert_eq!(at(super::super::NATIVE_ARCH, tomorrow), Verdict::ENOSYS);
        assert_eq!(at(super::super::NATIVE_ARCH, 0x4000_0000), Verdict::ENOSYS, "x32");
        assert_eq!(at(0x4000_0028, 0), Verdict::ENOSYS, "arm");
        #[cfg(target_arch = "x86_64")]
        {
            assert_eq!(at(super::super::X86, 1), Verdict::ALLOW, "exit");
            assert_eq!(at(super::super::X86, 5), Verdict::ENOSYS, "open");
        }
    }
}

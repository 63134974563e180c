//! The program that runs a container, seen from inside it.

use std::path::{Path, PathBuf};

use super::{image, mighty, oci};
use crate::harness::bundle::{Engine, bundle};
use crate::harness::{Cmd, PODRUN, Podrun, executable, in_guest, shim};

/// Copies of both programs, so that an attack that works does not break what is under test.
struct Programs {
    podrun: PathBuf,
    shim: PathBuf,
}

impl Programs {
    fn new(podrun: &Podrun) -> Self {
        let copy = |program: &Path| {
            let copy = podrun.dir().join(program.file_name().expect("a name"));
            // By another process: one that another test forks meanwhile must not hold it open.
            Cmd::new("cp", [program, &copy]).exits(0);
            copy
        };
        Self { podrun: copy(PODRUN.as_ref()), shim: copy(&shim()) }
    }

    fn cmd<const N: usize>(&self, podrun: &Podrun, args: [&str; N]) -> Cmd {
        podrun.program(self.podrun.to_str().expect("a path in UTF-8"), args)
    }

    #[track_caller]
    fn are_untouched(&self) {
        let content = |path: &Path| std::fs::read(path).expect("read a program");
        let same = |one: &Path, other: &Path| content(one) == content(other);
        assert!(same(&self.podrun, PODRUN.as_ref()), "podrun was written from inside a container");
        assert!(same(&self.shim, &shim()), "podrun-shim was written from inside a container");
    }
}

/// What the attacker says: each way it tried, and none of them worked.
#[track_caller]
fn nothing_worked(said: &str) {
    assert!(!said.contains("WROTE"), "{said}");
    assert!(said.ends_with("done\n"), "{said}");
    // Not because somebody still executed it: whoever waits would have it one day.
    let after = said.split("ended ").skip(1);
    let refused = after.map(|after| assert!(after.contains("open and truncate: EROFS"), "{said}")).count();
    assert!(refused > 0, "{said}");
}

/// CVE-2019-5736 with every weapon: a container with every capability, no filter and the host's pid
/// namespace opens the programs of a shim, of an `--init` and of an init in OCI mode, tries to write
/// them while they run and after they have ended, and to make their mounts writable.
#[test]
fn no_capability_makes_the_program_of_a_container_writable() {
    let podrun = Podrun::new();
    let programs = Programs::new(&podrun);
    let image = image(&podrun, &["binary"]);
    let root = image.to_str().expect("a path in UTF-8");
    programs.cmd(&podrun, ["run", "victim", "-d", "--init", "--rootfs", root, "--", "sleep", "1000"]).ok();
    let dir = bundle(&podrun.dir().join("victim"), &oci(&image, &["sleep", "1000"]));
    // Its output would be the init's, too.
    let create = "exec \"$0\" create --bundle \"$1\" oci </dev/null >/dev/null 2>&1";
    let args = [create.as_ref(), programs.podrun.as_os_str(), dir.as_os_str()];
    podrun.program("/bin/sh", [&["-c".as_ref()], &args[..]].concat()).exits(0);

    let fifo = image.join("said");
    Cmd::new("mkfifo", [&fifo]).exits(0);
    let victims = [podrun.shim_pid("victim"), podrun.pid("victim"), podrun.pid("oci")];
    let script = format!("/binary hold {} {} {} | tee /said", victims[0], victims[1], victims[2]);
    let attacker = Engine::create(&podrun, "attacker", &mighty(&image, &["sh", "-c", &script]));
    let mut listener = Cmd::new("cat", [&fifo]).spawn();
    podrun.cmd(["start", "attacker"]).ok();
    listener.until("holding");
    podrun.cmd(["delete", "-f", "victim", "oci"]).ok();
    listener.finish();
    let output = attacker.wait();
    nothing_worked(&output.out());
    for victim in victims {
        assert!(output.out().contains(&format!("holding {victim}\n")), "not even tried: {output}");
    }
    assert_eq!(output.out().matches("mapped\n").count(), 3, "not even tried: {output}");
    programs.are_untouched();
}

/// CVE-2019-5736 as it was: the file that an exec runs is `#!/proc/self/exe`, and a process inside, root with
/// the usual capabilities, waits to write what that turns out to be. A link to it is refused.
#[test]
fn a_command_that_is_proc_self_exe_does_not_open_the_shim() {
    // On one processor the attacker never runs at the right moment.
    if in_guest() {
        return;
    }
    let podrun = Podrun::new();
    let programs = Programs::new(&podrun);
    let image = image(&podrun, &["binary"]);
    executable(&image.join("script"), "#!/proc/self/exe\n");
    std::os::unix::fs::symlink("/proc/self/exe", image.join("link")).expect("make a link");
    let root = image.to_str().expect("a path in UTF-8");
    programs.cmd(&podrun, ["run", "c", "-d", "--rootfs", root, "--", "/binary", "next"]).ok();
    podrun.says("c", "ready");
    for own in ["/proc/self/exe", "/link", "/proc/thread-self/exe"] {
        for mode in ["-i", "-t"] {
            let exec = programs.cmd(&podrun, ["exec", mode, "c", own]).run();
            exec.expect(126);
            assert!(exec.to_string().contains("it is podrun's own program"), "{exec}");
        }
        let run = ["run", "d", "--rm", "--rootfs", root, "--", own];
        programs.cmd(&podrun, run).fails(126, "it is podrun's own program");
    }
    // It is podrun-shim with arguments that mean nothing to it, and lives for half a millisecond: not
    // every one is caught.
    let mut tries = 0;
    while podrun.status("c") == "running" {
        programs.cmd(&podrun, ["exec", "c", "/script"]).run();
        tries += 1;
        assert!(tries < 1000, "never caught");
    }
    let said = podrun.cmd(["logs", "c"]).ok();
    assert!(said.contains("caught"), "{said}");
    nothing_worked(&said);
    programs.are_untouched();
}

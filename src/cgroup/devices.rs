//! Which devices a container may use: a BPF program that the kernel runs at each `open` and `mknod`.
//!
//! ```text
//!  linux.resources.devices + the usual ones ──compile (pure)──▶ program ──▶ load ──▶ attach by fd
//!                                                       the usual one alone: shared, from its keeping
//! ```
//!
//! cgroup v2 has no files for devices. The program keeps the set of accesses that are still to be
//! decided and goes through the rules from the last to the first: the last rule that names a device
//! and an access decides, as in cgroup v1. What no rule names is denied.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};
use rustix::io::Errno;

use super::{Cgroup, names_below};
use crate::error::{Error, Result};
use crate::sys::bpf::{self, Instruction};

// `linux/bpf.h`: BPF_DEVCG_*
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MKNOD | READ | WRITE;
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// What every container may use, whatever its configuration says, as with every engine: null, zero,
/// full, random, urandom, tty, console, ptmx, pts; and any node may be *made*, for it cannot be opened.
const USUAL: [Rule; 11] = [
    Rule::allow(CHAR, None, None, MKNOD),
    Rule::allow(BLOCK, None, None, MKNOD),
    Rule::allow(CHAR, Some(1), Some(3), ALL),
    Rule::allow(CHAR, Some(1), Some(5), ALL),
    Rule::allow(CHAR, Some(1), Some(7), ALL),
    Rule::allow(CHAR, Some(1), Some(8), ALL),
    Rule::allow(CHAR, Some(1), Some(9), ALL),
    Rule::allow(CHAR, Some(5), Some(0), ALL),
    Rule::allow(CHAR, Some(5), Some(1), ALL),
    Rule::allow(CHAR, Some(5), Some(2), ALL),
    Rule::allow(CHAR, Some(136), None, ALL),
];

/// One rule, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

impl Rule {
    const fn allow(kind: i32, major: Option<i32>, minor: Option<i32>, access: i32) -> Self {
        Self { allow: true, kind: Some(kind), major, minor, access }
    }

    fn of(rule: &LinuxDeviceCgroup) -> Result<Self> {
        let wrong = |why: String| Error::usage("linux.resources.devices", why);
        let number = |number: Option<i64>| match number {
            None | Some(..0) => Ok(None),
            Some(number) => i32::try_from(number)
                .map(Some)
                .map_err(|_| wrong(format!("{number} is not the number of a device"))),
        };
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => None,
            Some(LinuxDeviceType::B) => Some(BLOCK),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHAR),
            Some(LinuxDeviceType::P) => return Err(wrong("a pipe is not a device".to_owned())),
        };
        let mut access = 0;
        for letter in rule.access().as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm").chars() {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                _ => return Err(wrong(format!("access {letter:?} is none of r, w and m"))),
            };
        }
        Ok(Self {
            allow: rule.allow(),
            kind,
            major: number(rule.major())?,
            minor: number(rule.minor())?,
            access,
        })
    }

    /// Whether it decides about every device and access.
    fn is_whole(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }
}

/// The rules in the order in which they are asked: the last one first, up to one that decides all.
fn rules(resources: Option<&LinuxResources>) -> Result<Vec<Rule>> {
    let own = resources.into_iter().flat_map(|resources| resources.devices().iter().flatten());
    let mut rules = own.map(Rule::of).collect::<Result<Vec<_>>>()?;
    if rules.last().is_none_or(|last| !(last.allow && last.is_whole())) {
        rules.extend(USUAL);
    }
    let from = rules.iter().rposition(Rule::is_whole).unwrap_or(0);
    Ok(rules.drain(from..).rev().collect())
}

/// The program for `rules`; `None` where everything is allowed and there is nothing to decide.
fn compile(rules: &[Rule]) -> Option<Vec<Instruction>> {
    if rules.first().is_some_and(|first| first.allow && first.is_whole()) {
        return None;
    }
    // struct bpf_cgroup_dev_ctx: access << 16 | type, major, minor.
    let mut program = vec![
        load(2, 0),
        Instruction { code: MOV_REGISTER, registers: 2 << 4 | 3, ..Instruction::default() },
        Instruction { code: SHIFT_RIGHT, registers: 3, immediate: 16, ..Instruction::default() },
        Instruction { code: AND, registers: 2, immediate: 0xffff, ..Instruction::default() },
        load(4, 4),
        load(5, 8),
    ];
    for rule in rules {
        let verdict = verdict(rule);
        let conditions = [(2, rule.kind), (4, rule.major), (5, rule.minor)];
        let conditions: Vec<_> = conditions.into_iter().filter_map(|(r, value)| Some((r, value?))).collect();
        // Each condition that fails jumps over those behind it and over the verdict.
        let mut left = conditions.len() + verdict.len();
        for (register, value) in conditions {
            left -= 1;
            program.push(jump(JUMP_UNEQUAL, register, value, left));
        }
        program.extend(verdict);
    }
    // Behind a rule that decides all there is no way to it, which the verifier does not take.
    if !rules.last().is_some_and(Rule::is_whole) {
        program.extend(answer(false));
    }
    Some(program)
}

/// What is decided about an access that a rule names.
fn verdict(rule: &Rule) -> Vec<Instruction> {
    let [first, second] = answer(rule.allow);
    if rule.access == ALL {
        // Whatever is still to be decided is so now. With nothing to go on for, the kernel's verifier has
        // one way through each rule: 0.3 ms less for each container.
        vec![first, second]
    } else if rule.allow {
        // What is allowed need not be decided any more. When nothing is left, all was allowed.
        let decided =
            Instruction { code: AND, registers: 3, immediate: !rule.access, ..Instruction::default() };
        vec![decided, jump(JUMP_UNEQUAL, 3, 0, 2), first, second]
    } else {
        let over = Instruction { code: JUMP, offset: 2, ..Instruction::default() };
        vec![jump(JUMP_IF_SET, 3, rule.access, 1), over, first, second]
    }
}

// `linux/bpf_common.h`: 32-bit operations, whose operands need no sign extension.
const LOAD_WORD: u8 = 0x61;
const MOV: u8 = 0xb4;
const MOV_REGISTER: u8 = 0xbc;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP: u8 = 0x05;
const JUMP_UNEQUAL: u8 = 0x56;
const JUMP_IF_SET: u8 = 0x46;
const EXIT: u8 = 0x95;

fn load(register: u8, offset: i16) -> Instruction {
    // From register 1, which holds the context.
    Instruction { code: LOAD_WORD, registers: 1 << 4 | register, offset, immediate: 0 }
}

fn jump(code: u8, register: u8, immediate: i32, over: usize) -> Instruction {
    // Over one rule at most: a few instructions.
    let offset = i16::try_from(over).unwrap_or(i16::MAX);
    Instruction { code, registers: register, offset, immediate }
}

fn answer(allow: bool) -> [Instruction; 2] {
    let answer = Instruction { code: MOV, immediate: i32::from(allow), ..Instruction::default() };
    [answer, Instruction { code: EXIT, ..Instruction::default() }]
}

impl Cgroup {
    /// Lets its processes use the devices that `resources` allow and the usual ones, and no others.
    /// A program that was there before is replaced: there is no moment without one.
    pub fn restrict_devices(&self, resources: Option<&LinuxResources>) -> Result<()> {
        self.enforce(resources, false)
    }

    /// The same for a cgroup that has a program already.
    pub fn replace_devices(&self, resources: Option<&LinuxResources>) -> Result<()> {
        self.enforce(resources, true)
    }

    fn enforce(&self, resources: Option<&LinuxResources>, again: bool) -> Result<()> {
        let failed = |error: std::io::Error| {
            let failed = Error::io("restrict the devices of", self.path(), &error);
            match failed.errno() {
                Some(Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
                    failed.hint("podrun needs a kernel with CONFIG_CGROUP_BPF")
                }
                _ => failed,
            }
        };
        let old = if again { bpf::device_program(self.as_fd()).map_err(failed)? } else { None };
        let program = match (compile(&rules(resources)?), &old) {
            (None, None) => return Ok(()),
            // The old program goes for one that allows everything.
            (None, Some(_)) => answer(true).into(),
            (Some(program), _) => program,
        };
        let load = || {
            bpf::load_device_program(&program).map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::TOOBIG | Errno::NOSPC) => {
                    Error::usage("linux.resources.devices", "has too many rules")
                }
                _ => failed(error),
            })
        };
        let is_usual = old.is_none() && compile(&rules(None)?).is_some_and(|usual| usual == program);
        let loaded = match is_usual.then(|| self.keeping(&program)).flatten() {
            None => load()?,
            Some(keeping) => match bpf::device_program(keeping.as_fd()) {
                Ok(Some(kept)) => kept,
                _ => {
                    let loaded = load()?;
                    // Where it cannot be kept, the next container loads its own.
                    let _ = bpf::attach_device_program(keeping.as_fd(), loaded.as_fd(), None);
                    loaded
                }
            },
        };
        match bpf::attach_device_program(self.as_fd(), loaded.as_fd(), old.as_ref().map(AsFd::as_fd)) {
            // A cgroup that is still there from the run before has it already, and takes none twice.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) && self.has(loaded.as_fd()) => {
                Ok(())
            }
            other => other.map_err(failed),
        }
    }

    fn has(&self, program: BorrowedFd<'_>) -> bool {
        let own = bpf::device_programs(self.as_fd()).unwrap_or_default();
        bpf::program_id(program).is_some_and(|id| own.contains(&id))
    }

    /// Where the program that nearly all containers have is kept: a cgroup below that of podrun's shims, in which
    /// nothing ever runs, named for what the program is. The kernel takes longer to look at a program (0.3 ms) than
    /// for all mounts of a container, and each is memory of its own. `None` for a container that is not among
    /// podrun's own.
    fn keeping(&self, program: &[Instruction]) -> Option<Cgroup> {
        let shims = self.path().parent()?.join("_shims");
        let mut hasher = DefaultHasher::new();
        program.hash(&mut hasher);
        let path = shims.join(format!("devices-{:x}", hasher.finish()));
        match Self::open(&path) {
            Ok(None) => {
                // Those of other releases: who has such a program keeps it.
                for old in names_below(Self::open(&shims).ok()??.as_fd()).ok()? {
                    let _ = std::fs::remove_dir(shims.join(OsStr::from_bytes(old.to_bytes())));
                }
                Self::create(&path).ok()
            }
            other => other.ok().flatten(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn resources(devices: Value) -> LinuxResources {
        serde_json::from_value(json!({ "devices": devices })).unwrap()
    }

    /// What the kernel does with a program.
    fn run(program: &[Instruction], kind: i32, major: i32, minor: i32, access: i32) -> bool {
        let mut registers = [0_u32; 6];
        let mut at = 0;
        loop {
            let Instruction { code, registers: which, offset, immediate } = program[at];
            let (to, from) = (usize::from(which & 0xf), usize::from(which >> 4));
            at += 1;
            let jumps = match code {
                LOAD_WORD => {
                    registers[to] = match offset {
                        0 => access << 16 | kind,
                        4 => major,
                        _ => minor,
                    }
                    .cast_unsigned();
                    false
                }
                MOV => {
                    registers[to] = immediate.cast_unsigned();
                    false
                }
                MOV_REGISTER => {
                    registers[to] = registers[from];
                    false
                }
                AND => {
                    registers[to] &= immediate.cast_unsigned();
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= immediate;
                    false
                }
                JUMP => true,
                JUMP_UNEQUAL => registers[to] != immediate.cast_unsigned(),
                JUMP_IF_SET => registers[to] & immediate.cast_unsigned() != 0,
                EXIT => return registers[0] != 0,
                other => panic!("{other:#x}"),
            };
            if jumps {
                at += usize::try_from(offset).unwrap();
            }
        }
    }

    fn allows(devices: Value, kind: i32, major: i32, minor: i32, access: i32) -> bool {
        let rules = rules(Some(&resources(devices))).unwrap();
        compile(&rules).is_none_or(|program| run(&program, kind, major, minor, access))
    }

    #[test]
    fn the_usual_devices_are_allowed_and_every_node_may_be_made_but_not_opened() {
        for devices in [json!([]), json!([{"allow": false, "access": "rwm"}])] {
            assert!(allows(devices.clone(), CHAR, 1, 3, READ | WRITE));
            assert!(allows(devices.clone(), CHAR, 136, 7, READ | WRITE));
            assert!(allows(devices.clone(), BLOCK, 8, 0, MKNOD));
            assert!(!allows(devices.clone(), BLOCK, 8, 0, READ));
            assert!(!allows(devices.clone(), BLOCK, 1, 3, READ), "a block device of null's numbers");
            assert!(!allows(devices.clone(), CHAR, 1, 1, READ | WRITE), "memory");
        }
    }

    #[test]
    fn the_last_rule_that_names_an_access_decides() {
        let devices = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": -1, "access": "rw"},
            {"allow": false, "type": "c", "major": 10, "minor": 200, "access": "w"},
            {"allow": true, "type": "b", "major": 8, "minor": 1, "access": "r"},
            {"allow": true, "type": "b", "major": 8, "minor": 1, "access": "w"},
        ]);
        assert!(allows(devices.clone(), CHAR, 10, 7, READ | WRITE));
        assert!(allows(devices.clone(), CHAR, 10, 200, READ));
        assert!(!allows(devices.clone(), CHAR, 10, 200, READ | WRITE));
        assert!(allows(devices.clone(), BLOCK, 8, 1, READ | WRITE), "two rules add up");
        assert!(!allows(devices, BLOCK, 8, 2, READ));
    }

    #[test]
    fn a_container_that_may_use_everything_needs_no_program() {
        assert!(
            compile(&rules(Some(&resources(json!([{"allow": true, "access": "rwm"}])))).unwrap()).is_none()
        );
        assert!(compile(&rules(None).unwrap()).is_some());
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_refused() {
        for wrong in [
            json!([{"allow": true, "type": "p"}]),
            json!([{"allow": true, "access": "x"}]),
            json!([{"allow": true, "major": 4294967296_i64}]),
        ] {
            assert!(rules(Some(&resources(wrong.clone()))).is_err(), "{wrong}");
        }
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let some = |values: std::ops::Range<i32>| prop::option::of(values);
        (any::<bool>(), some(1..3), some(0..3), some(0..3), 1..8)
            .prop_map(|(allow, kind, major, minor, access)| Rule { allow, kind, major, minor, access })
    }

    proptest! {
        /// The program does what its rules say, asked one access at a time in plain words.
        #[test]
        fn a_program_does_what_its_rules_say(
            rules in prop::collection::vec(any_rule(), 0..9), kind in 1..3, major in 0..3, minor in 0..3,
            access in 1..8,
        ) {
            let names = |rule: &Rule, bit: i32| {
                rule.kind.is_none_or(|k| k == kind) && rule.major.is_none_or(|m| m == major)
                    && rule.minor.is_none_or(|m| m == minor) && rule.access & bit != 0
            };
            let expected = [MKNOD, READ, WRITE].into_iter().filter(|bit| access & bit != 0).all(|bit| {
                rules.iter().find(|rule| names(rule, bit)).is_some_and(|rule| rule.allow)
            });
            let got = compile(&rules).is_none_or(|program| run(&program, kind, major, minor, access));
            prop_assert_eq!(got, expected);
        }
    }
}

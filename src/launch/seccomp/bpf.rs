//! From rules to a program of classic BPF (`seccomp(2)`, `bpf(4)` of the BSDs).
//!
//! ```text
//!  architecture? ──▶ number below the highest known? ──▶ search tree over the numbers ──▶ verdict
//!        └ other: ENOSYS         └ above: ENOSYS                                    └ or its arguments
//! ```
//!
//! A tree and not a chain: the kernel runs a new filter once for every number there is (its cache of
//! what is always allowed, Linux 5.11), so that a chain's length would be paid four hundred
//! times at every `execve`; and a call that is not cached costs ten comparisons instead of
//! hundreds.

use crate::sys::seccomp::Instruction;

/// What a filter says to a call: `SECCOMP_RET_*` with its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict(pub(super) u32);

impl Verdict {
    pub(super) const ALLOW: Self = Self(0x7fff_0000);
    /// No program can tell it from a kernel that does not have the call: it takes another way.
    pub(super) const ENOSYS: Self = Self::errno(nix::libc::ENOSYS as u32);

    /// Whether the call is made.
    const fn permits(self) -> bool {
        matches!(self.0, 0x7fff_0000 | 0x7ffc_0000)
    }

    pub(super) const fn errno(errno: u32) -> Self {
        Self(0x0005_0000 | (errno & 0xffff))
    }
}

/// How an argument is compared; unsigned, all 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Is {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal in the bits of the mask.
    EqualIn(u64),
}

/// What one argument has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) index: u8,
    pub(super) is: Is,
    pub(super) value: u64,
}

/// A verdict for arguments that fulfil every condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) conditions: Vec<Condition>,
    pub(super) verdict: Verdict,
}

/// What becomes of one system call: the first case that fits, or else `otherwise`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) cases: Vec<Case>,
    pub(super) otherwise: Verdict,
}

impl From<Verdict> for Rule {
    fn from(verdict: Verdict) -> Self {
        Self { cases: Vec::new(), otherwise: verdict }
    }
}

/// The rules for the system calls of one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// `AUDIT_ARCH_*`.
    pub(super) arch: u32,
    /// By number, in ascending order, each once.
    pub(super) rules: Vec<(u32, Rule)>,
    /// For a number that has no rule.
    pub(super) default: Verdict,
    /// From this number on it is ENOSYS: calls that the author of the rules cannot have known.
    pub(super) unknown: u32,
}

impl Section {
    /// The rule for the call `number`, where it has one.
    pub(super) fn rule(&self, number: u32) -> Option<&Rule> {
        let at = self.rules.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(&self.rules[at].1)
    }
}

// `linux/bpf_common.h`
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

// `struct seccomp_data`
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// The number of a call that a tracer has taken back (`seccomp(2)`): what it says comes of it stays so where the rest is
/// permitted.
const SKIPPED: u32 = u32::MAX;

fn statement(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// The program for `sections`; any other architecture's calls are ENOSYS.
pub(super) fn compile(sections: &[Section]) -> Vec<Instruction> {
    let mut program = Backwards::default();
    let mut entry = program.verdict(Verdict::ENOSYS);
    for section in sections.iter().rev() {
        let body = program.section(section);
        entry = program.branch(EQUAL, section.arch, body, entry);
    }
    program.push(statement(LOAD, ARCH));
    debug_assert_eq!(entry.0 + 2, program.code.len(), "it begins where the last branch is");
    program.code.reverse();
    program.code
}

/// A place in the program, counted from its end: all jumps are forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(usize);

/// A program that is written from its end, so that everything knows where it jumps to; one verdict serves many.
/// (Its length is what the kernel's translation of it costs, at every `execve`.)
#[derive(Debug, Default)]
struct Backwards {
    code: Vec<Instruction>,
    /// Where each verdict was written last.
    verdicts: Vec<(Verdict, Place)>,
}

impl Backwards {
    fn push(&mut self, instruction: Instruction) -> Place {
        self.code.push(instruction);
        Place(self.code.len() - 1)
    }

    /// How many instructions there would be between the next one and `place`.
    fn distance(&self, place: Place) -> usize {
        self.code.len() - 1 - place.0
    }

    /// Where `verdict` is returned, as near as a conditional jump needs it.
    fn verdict(&mut self, verdict: Verdict) -> Place {
        /// What may come between: the other side of the jump, if that is a verdict too, and a longer jump.
        const NEAR: usize = 250;
        let known = self.verdicts.iter().position(|(known, _)| *known == verdict);
        if let Some(at) = known
            && self.distance(self.verdicts[at].1) < NEAR
        {
            return self.verdicts[at].1;
        }
        let place = self.push(statement(RETURN, verdict.0));
        match known {
            Some(at) => self.verdicts[at].1 = place,
            None => self.verdicts.push((verdict, place)),
        }
        place
    }

    /// Goes to one place or the other.
    fn branch(&mut self, code: u16, k: u32, then: Place, otherwise: Place) -> Place {
        let far = |program: &Self, place| program.distance(place) >= u8::MAX.into();
        let mut reach = |place: Place| match far(self, place) {
            // Only an unconditional jump goes so far.
            true => {
                let distance = offset(self.distance(place));
                self.push(statement(JUMP, distance))
            }
            false => place,
        };
        let (then, otherwise) = (reach(then), reach(otherwise));
        // Both are near now: what was put between is one instruction.
        let near = |place| u8::try_from(self.distance(place)).unwrap_or(u8::MAX);
        let (jt, jf) = (near(then), near(otherwise));
        self.push(jump(code, k, jt, jf))
    }

    /// What becomes of the calls of one architecture.
    fn section(&mut self, section: &Section) -> Place {
        let default = Rule::from(section.default);
        // Where the verdict changes: from this number up to the next one's.
        let mut ranges: Vec<(u32, &Rule)> = Vec::with_capacity(256);
        let mut push = |from, rule| {
            ranges.pop_if(|(start, _)| *start == from);
            if ranges.last().is_none_or(|(_, last)| *last != rule) {
                ranges.push((from, rule));
            }
        };
        push(0, &default);
        for (number, rule) in section.rules.iter().take_while(|(number, _)| *number < section.unknown) {
            push(*number, rule);
            push(number + 1, &default);
        }
        let known = self.tree(&ranges);
        let unknown = self.verdict(Verdict::ENOSYS);
        let known = self.branch(GREATER_OR_EQUAL, section.unknown, unknown, known);
        if section.default.permits() {
            let permitted = self.verdict(section.default);
            self.branch(EQUAL, SKIPPED, permitted, known);
        }
        self.push(statement(LOAD, NUMBER))
    }

    fn tree(&mut self, ranges: &[(u32, &Rule)]) -> Place {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        match (low, high) {
            (_, [(first, _), ..]) if !low.is_empty() => {
                let (above, below) = (self.tree(high), self.tree(low));
                self.branch(GREATER_OR_EQUAL, *first, above, below)
            }
            (_, [(_, rule), ..]) if rule.cases.is_empty() => self.verdict(rule.otherwise),
            (_, [(_, rule), ..]) => {
                let mut code = Vec::new();
                judge(rule, &mut code);
                code.into_iter().rev().map(|instruction| self.push(instruction)).last().unwrap_or(Place(0))
            }
            // There is always one.
            _ => self.verdict(Verdict::ENOSYS),
        }
    }
}

/// A program has at most 4096 instructions: the kernel refuses longer ones.
fn offset(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn judge(rule: &Rule, program: &mut Vec<Instruction>) {
    for case in &rule.cases {
        // From the last condition to the first, so that each knows how far it is to the next case.
        let mut code = vec![statement(RETURN, case.verdict.0)];
        for condition in case.conditions.iter().rev() {
            // At most six conditions of at most seven instructions.
            let to_next = u8::try_from(code.len()).unwrap_or(u8::MAX);
            let mut whole = check(*condition, to_next);
            whole.append(&mut code);
            code = whole;
        }
        program.append(&mut code);
    }
    program.push(statement(RETURN, rule.otherwise.0));
}

/// Falls through where `condition` holds, and else skips what follows and `rest` more. An
/// argument is compared in two halves: BPF has 32 bits.
fn check(condition: Condition, rest: u8) -> Vec<Instruction> {
    let at = ARGS + 8 * u32::from(condition.index);
    // The second half in memory is the high one.
    let (at_low, at_high) = if cfg!(target_endian = "little") { (at, at + 4) } else { (at + 4, at) };
    // `as`: the halves are what is wanted.
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (high, low) = halves(condition.value);
    let (load_high, load_low) = (statement(LOAD, at_high), statement(LOAD, at_low));
    match condition.is {
        Is::Equal => vec![load_high, jump(EQUAL, high, 0, rest + 2), load_low, jump(EQUAL, low, 0, rest)],
        Is::NotEqual => vec![load_high, jump(EQUAL, high, 0, 2), load_low, jump(EQUAL, low, rest, 0)],
        Is::EqualIn(mask) => {
            let (mask_high, mask_low) = halves(mask);
            vec![
                load_high,
                statement(AND, mask_high),
                jump(EQUAL, high, 0, rest + 3),
                load_low,
                statement(AND, mask_low),
                jump(EQUAL, low, 0, rest),
            ]
        }
        Is::Greater | Is::GreaterOrEqual => {
            let code = if condition.is == Is::Greater { GREATER } else { GREATER_OR_EQUAL };
            vec![
                load_high,
                jump(GREATER, high, 3, 0),
                jump(EQUAL, high, 0, rest + 2),
                load_low,
                jump(code, low, 0, rest),
            ]
        }
        Is::Less | Is::LessOrEqual => {
            let code = if condition.is == Is::Less { GREATER_OR_EQUAL } else { GREATER };
            vec![
                load_high,
                jump(GREATER, high, rest + 3, 0),
                jump(EQUAL, high, 0, 2),
                load_low,
                jump(code, low, rest, 0),
            ]
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One system call as a filter sees it.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Call {
        pub(in super::super) arch: u32,
        pub(in super::super) number: u32,
        pub(in super::super) args: [u64; 6],
    }

    /// What the kernel's interpreter would return.
    pub(in super::super) fn run(program: &[Instruction], call: Call) -> Verdict {
        let load = |at: u32| match at {
            NUMBER => call.number,
            ARCH => call.arch,
            _ => {
                let index = usize::try_from((at - ARGS) / 8).unwrap();
                (call.args[index] >> (8 * ((at - ARGS) % 8))) as u32
            }
        };
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let branch = |holds: bool| usize::from(if holds { jt } else { jf });
            match code {
                LOAD => a = load(k),
                AND => a &= k,
                JUMP => at += usize::try_from(k).unwrap(),
                EQUAL => at += branch(a == k),
                GREATER => at += branch(a > k),
                GREATER_OR_EQUAL => at += branch(a >= k),
                RETURN => return Verdict(k),
                _ => panic!("no such instruction: {code:#x}"),
            }
        }
    }

    fn holds(condition: &Condition, args: [u64; 6]) -> bool {
        let (arg, value) = (args[usize::from(condition.index)], condition.value);
        match condition.is {
            Is::Equal => arg == value,
            Is::NotEqual => arg != value,
            Is::Less => arg < value,
            Is::LessOrEqual => arg <= value,
            Is::Greater => arg > value,
            Is::GreaterOrEqual => arg >= value,
            Is::EqualIn(mask) => arg & mask == value,
        }
    }

    /// What the rules say, read as they are written.
    fn expected(sections: &[Section], call: Call) -> Verdict {
        let Some(section) = sections.iter().find(|section| section.arch == call.arch) else {
            return Verdict::ENOSYS;
        };
        if call.number == SKIPPED && section.default.permits() {
            return section.default;
        }
        if call.number >= section.unknown {
            return Verdict::ENOSYS;
        }
        let Some(rule) = section.rule(call.number) else { return section.default };
        let fits = |case: &&Case| case.conditions.iter().all(|condition| holds(condition, call.args));
        rule.cases.iter().find(fits).map_or(rule.otherwise, |case| case.verdict)
    }

    /// Values around the places where a comparison in halves could go wrong.
    fn value() -> impl Strategy<Value = u64> {
        let half = || prop::sample::select(vec![0, 1, 2, 0x7fff_ffff, 0xffff_fffe, 0xffff_ffff_u64]);
        (half(), half()).prop_map(|(high, low)| high << 32 | low)
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        prop_oneof![3 => (0..3_u32).prop_map(Verdict::errno), 1 => Just(Verdict::ALLOW)]
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let is = prop_oneof![
            Just(Is::Equal),
            Just(Is::NotEqual),
            Just(Is::Less),
            Just(Is::LessOrEqual),
            Just(Is::Greater),
            Just(Is::GreaterOrEqual),
            value().prop_map(Is::EqualIn),
        ];
        let condition = (0..6_u8, is, value()).prop_map(|(index, is, value)| Condition { index, is, value });
        let case = (prop::collection::vec(condition, 0..6), verdict())
            .prop_map(|(conditions, verdict)| Case { conditions, verdict });
        (prop::collection::vec(case, 0..4), verdict())
            .prop_map(|(cases, otherwise)| Rule { cases, otherwise })
    }

    fn section(arch: u32) -> impl Strategy<Value = Section> {
        let rules = prop::collection::btree_map(0..400_u32, rule(), 0..60);
        (rules, verdict(), 0..450_u32).prop_map(move |(rules, default, unknown)| Section {
            arch,
            rules: rules.into_iter().collect(),
            default,
            unknown,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_program_judges_as_its_rules_say(
            sections in (section(1), section(2)),
            args in prop::collection::vec(prop::array::uniform6(value()), 8),
        ) {
            let sections = [sections.0, sections.1];
            let program = compile(&sections);
            for (arch, number) in (0..4).flat_map(|arch| (0..460).chain([SKIPPED]).map(move |number| (arch, number))) {
                for args in &args {
                    let call = Call { arch, number, args: *args };
                    prop_assert_eq!(run(&program, call), expected(&sections, call), "{:?}", call);
                }
            }
        }
    }
}

//! The keys that leave a container alone: `ctrl-p,ctrl-q` unless said otherwise.

use std::str::FromStr;

use podrun::error::Error;

/// A sequence of keys to watch for; an empty one never comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DetachKeys {
    sequence: Vec<u8>,
    /// The keys that came last and may be the beginning of it.
    held: Vec<u8>,
}

impl Default for DetachKeys {
    fn default() -> Self {
        Self { sequence: vec![control(b'p'), control(b'q')], held: Vec::new() }
    }
}

const fn control(letter: u8) -> u8 {
    letter & 0x1f
}

impl FromStr for DetachKeys {
    type Err = Error;

    /// `ctrl-X` or a single character, with commas between them; nothing at all for no keys.
    fn from_str(text: &str) -> Result<Self, Error> {
        let key = |word: &str| match (word.strip_prefix("ctrl-").map(str::as_bytes), word.as_bytes()) {
            (Some([letter @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]), _) => {
                Ok(control(*letter))
            }
            (None, [character]) if character.is_ascii_graphic() => Ok(*character),
            _ => Err(Error::usage(format!("--detach-keys {text:?}"), format!("{word:?} is no key"))
                .hint("write ctrl-p,ctrl-q: `ctrl-` and a letter, or a character, with commas between")),
        };
        let words = text.split(',').filter(|_| !text.is_empty());
        Ok(Self { sequence: words.map(key).collect::<Result<_, _>>()?, held: Vec::new() })
    }
}

impl DetachKeys {
    /// The keys.
    pub(super) fn sequence(&self) -> &[u8] {
        &self.sequence
    }

    /// Passes `typed` on to the end of `out`, but for what may be the beginning of the sequence. True once
    /// the sequence is complete: what came behind it is nobody's.
    pub(super) fn pass(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        if self.sequence.is_empty() {
            out.extend_from_slice(typed);
            return false;
        }
        for key in typed {
            self.held.push(*key);
            while !self.sequence.starts_with(&self.held) {
                out.push(self.held.remove(0));
            }
            if self.held.len() == self.sequence.len() {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(text: &str) -> DetachKeys {
        text.parse().unwrap()
    }

    #[test]
    fn keys_are_read_as_docker_writes_them() {
        assert_eq!(keys("ctrl-p,ctrl-q"), DetachKeys::default());
        assert_eq!(keys("ctrl-@,x,ctrl-\\").sequence, [0, b'x', 0x1c]);
        assert!(keys("").sequence.is_empty());
        for wrong in ["ctrl-", "ctrl-pp", "ab", "a,,b", "ctrl-P", "\u{e9}"] {
            assert!(wrong.parse::<DetachKeys>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_beginning_that_goes_on_otherwise_is_passed_on() {
        let mut keys = keys("a,a,b");
        let mut out = Vec::new();
        assert!(!keys.pass(b"xa", &mut out));
        assert_eq!(out, b"x");
        assert!(!keys.pass(b"a", &mut out));
        assert!(!keys.pass(b"a", &mut out));
        assert_eq!(out, b"xa", "the last two may still be its beginning");
        assert!(keys.pass(b"bz", &mut out));
        assert_eq!(out, b"xa");
    }

    proptest! {
        #[test]
        fn what_is_typed_is_what_arrives_up_to_the_sequence(
            typed in "[abx]{0,20}", sequence in "[ab](,[ab]){0,3}", cut in 0..20usize,
        ) {
            let mut keys = keys(&sequence);
            let bare = sequence.replace(',', "");
            let cut = cut.min(typed.len());
            let mut out = Vec::new();
            let left = keys.pass(&typed.as_bytes()[..cut], &mut out) || keys.pass(&typed.as_bytes()[cut..], &mut out);
            match typed.find(&bare) {
                Some(at) => prop_assert!(left && out == typed.as_bytes()[..at]),
                None => {
                    prop_assert!(!left);
                    out.extend_from_slice(&keys.held);
                    prop_assert_eq!(out, typed.as_bytes());
                }
            }
        }
    }
}

//! Signals by number and by name: `9`, `KILL`, `SIGKILL`, `RTMIN+3` alike.

use nix::libc;
use nix::sys::signal::Signal;

use crate::error::{Error, Result};

/// The number of the signal that `text` names.
pub fn parse(text: &str) -> Result<i32> {
    find(text).ok_or_else(|| {
        Error::usage(format!("signal {text:?}"), "is unknown")
            .hint("a signal is a number from 1 to 64 or a name: 9, KILL, SIGKILL, RTMIN+1")
    })
}

fn find(text: &str) -> Option<i32> {
    if text.bytes().all(|c| c.is_ascii_digit()) {
        return text.parse().ok().filter(|number| (1..=libc::SIGRTMAX()).contains(number));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let standard = match name {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        name => name,
    };
    if let Ok(signal) = format!("SIG{standard}").parse::<Signal>() {
        return Some(signal as i32);
    }
    let (base, offset) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => (libc::SIGRTMIN(), 0),
        (_, Some("")) => (libc::SIGRTMAX(), 0),
        (Some(rest), _) => (libc::SIGRTMIN(), distance(rest.strip_prefix('+')?)?),
        (_, Some(rest)) => (libc::SIGRTMAX(), -distance(rest.strip_prefix('-')?)?),
        _ => return None,
    };
    Some(base + offset).filter(|number| (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(number))
}

fn distance(text: &str) -> Option<i32> {
    text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse::<u8>().ok().map(i32::from))?
}

/// The name of signal `number`: `SIGKILL`, or `SIGRTMIN+1`, or the number where it has none.
pub fn name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) if number == libc::SIGRTMIN() => "SIGRTMIN".to_owned(),
        Err(_) if number > libc::SIGRTMIN() && number <= libc::SIGRTMAX() => {
            format!("SIGRTMIN+{}", number - libc::SIGRTMIN())
        }
        Err(_) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_and_names_are_alike() {
        for text in ["9", "KILL", "SIGKILL", "kill", "sigKill"] {
            assert_eq!(parse(text).unwrap(), 9, "{text}");
        }
        assert_eq!(parse("RTMIN+2").unwrap(), libc::SIGRTMIN() + 2);
        assert_eq!(parse("SIGRTMAX-1").unwrap(), libc::SIGRTMAX() - 1);
        assert_eq!(parse("IOT").unwrap(), libc::SIGABRT);
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for text in
            ["", "0", "65", "-9", "+9", "SIG", "SIGSIGKILL", "RTMIN-1", "RTMAX+1", "RTMIN+99", "KILLED", "9 "]
        {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_signal_has_a_name_that_names_it(number in 1i32..=64) {
            prop_assert_eq!(parse(&name(number)).unwrap(), number);
        }

        #[test]
        fn any_text_is_a_legal_signal_or_an_error(text in "\\PC{0,12}|(SIG)?RT(MIN|MAX)[+-][0-9]{0,4}") {
            if let Ok(number) = parse(&text) {
                prop_assert!((1..=64).contains(&number));
            }
        }
    }
}

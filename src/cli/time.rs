//! Times on the command line, and ages in a table.

use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

/// The time that `text` means: RFC 3339, a Unix time, or an age such as `10m` before `now`.
pub(super) fn parse(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let unix = || {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
            return None;
        }
        Timestamp::new(whole.parse().ok()?, format!("{fraction:0<9}").parse().ok()?).ok()
    };
    let age = || {
        // What is to come is no age.
        let age: Span = text.parse().ok().filter(|age: &Span| !age.is_negative())?;
        now.checked_sub(age.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?).ok()
    };
    unix().or_else(|| text.parse().ok()).or_else(age).ok_or_else(|| {
        "not a time: RFC 3339 (2026-01-02T03:04:05Z), a Unix time, or an age such as 10m".to_owned()
    })
}

/// As an argument.
pub(super) fn argument(text: &str) -> Result<Timestamp, String> {
    parse(text, Timestamp::now())
}

/// A length of time, as an argument: `30s`, `1m30s`, `500ms`, or seconds.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    let span = || text.parse::<SignedDuration>().ok().and_then(|span| span.try_into().ok());
    seconds.or_else(span).ok_or_else(|| "not a length of time: 30s, 1m30s, 500ms, or seconds".to_owned())
}

/// How long before `now` `then` was, as a person would say it.
pub(super) fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_absolute_or_an_age() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let time = |text| parse(text, now).unwrap().to_string();
        assert_eq!(time("2026-01-01T00:00:00.5+01:00"), "2025-12-31T23:00:00.5Z");
        assert_eq!(time("10m"), "2026-01-02T02:54:05Z");
        assert_eq!(time("1h30m"), "2026-01-02T01:34:05Z");
        assert_eq!(time("1d"), "2026-01-01T03:04:05Z");
        assert_eq!(time("1w"), "2025-12-26T03:04:05Z");
        assert_eq!(time("1700000000.25"), "2023-11-14T22:13:20.25Z");
        for wrong in ["", "x", ".", "10", "-", "2026-13-01T00:00:00Z"] {
            assert!(parse(wrong, now).is_err() || wrong == "10", "{wrong}");
        }
    }

    #[test]
    fn a_length_of_time_has_a_unit_or_is_in_seconds() {
        assert_eq!(span("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(span("7"), Ok(Duration::from_secs(7)));
        for wrong in ["", "-1s", "x", "1 fortnight"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_age_is_in_the_largest_whole_unit() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(age(at(0), at(1)), "1 second ago");
        assert_eq!(age(at(0), at(7200)), "2 hours ago");
        assert_eq!(age(at(9), at(0)), "0 seconds ago");
    }
}

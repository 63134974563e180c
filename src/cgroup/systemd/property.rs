//! What a unit of systemd is told of a container: its limits, and what an engine adds by annotations.

use std::collections::HashMap;
use std::time::Duration;

use crate::cgroup::limits::Setting;
use crate::error::{Error, Result};

/// One property of a unit (`org.freedesktop.systemd1(5)`).
#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    /// Its name, as it is on the bus.
    pub name: String,
    /// Its value, of the type it has there.
    pub value: Value,
}

/// The types that properties of a scope have.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `x`
    I64(i64),
    /// `t`
    U64(u64),
    /// `d`
    F64(f64),
    /// `s`
    Text(String),
    /// `as`
    Texts(Vec<String>),
    /// `ay`
    Bytes(Vec<u8>),
    /// `au`
    Numbers(Vec<u32>),
}

impl Property {
    /// The property `name`.
    pub fn new(name: &str, value: Value) -> Self {
        Self { name: name.to_owned(), value }
    }
}

/// An annotation `org.systemd.property.NAME` is a property of the container's unit, in the text format of `GVariant`:
/// a convention of runc and crun that CRI-O and podman rely on.
const ANNOTATION: &str = "org.systemd.property.";

/// The properties that `annotations` ask for, in the order of their names.
pub fn of_annotations(annotations: Option<&HashMap<String, String>>) -> Result<Vec<Property>> {
    let mut properties = Vec::new();
    for (key, text) in annotations.into_iter().flatten() {
        let Some(name) = key.strip_prefix(ANNOTATION) else { continue };
        let wrong = |why: &str| Error::usage(format!("annotation {key}: {text:?}"), why);
        if !name.starts_with(|first: char| first.is_ascii_uppercase())
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric())
        {
            return Err(wrong("is no name of a property"));
        }
        let value = parse(text).ok_or_else(|| {
            wrong("is no value of a property").hint("such as true, 'text', ['a', 'b'], uint64 5000000")
        })?;
        properties.push(match (name.strip_suffix("Sec"), value) {
            // Whoever writes seconds means seconds; the bus has microseconds.
            (Some(stem), value) if !name.ends_with("USec") => {
                let micros = micros(&value).ok_or_else(|| wrong("is no number of seconds"))?;
                Property::new(&format!("{stem}USec"), Value::U64(micros))
            }
            (_, value) => Property::new(name, value),
        });
    }
    properties.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(properties)
}

fn micros(seconds: &Value) -> Option<u64> {
    const MICROS: u64 = 1_000_000;
    match seconds {
        Value::I32(seconds) => u64::try_from(*seconds).ok()?.checked_mul(MICROS),
        Value::U32(seconds) => u64::from(*seconds).checked_mul(MICROS),
        Value::I64(seconds) => u64::try_from(*seconds).ok()?.checked_mul(MICROS),
        Value::U64(seconds) => seconds.checked_mul(MICROS),
        Value::F64(seconds) => Duration::try_from_secs_f64(*seconds).ok()?.as_micros().try_into().ok(),
        _ => None,
    }
}

/// A value in the text format of `GVariant`, as far as properties need it.
fn parse(text: &str) -> Option<Value> {
    let text = text.trim();
    match text.split_once(' ') {
        Some(("boolean", value)) => return value.trim().parse().ok().map(Value::Bool),
        Some(("int32", value)) => return value.trim().parse().ok().map(Value::I32),
        Some(("uint32", value)) => return value.trim().parse().ok().map(Value::U32),
        Some(("int64", value)) => return value.trim().parse().ok().map(Value::I64),
        Some(("uint64", value)) => return value.trim().parse().ok().map(Value::U64),
        Some(("double", value)) => return value.trim().parse().ok().map(Value::F64),
        Some(("string", value)) => {
            return quoted(value.trim())
                .filter(|(_, rest)| rest.is_empty())
                .map(|(text, _)| Value::Text(text));
        }
        _ => {}
    }
    if text.starts_with(['\'', '"']) {
        return quoted(text).filter(|(_, rest)| rest.is_empty()).map(|(text, _)| Value::Text(text));
    }
    if let Some(list) = text.strip_prefix('[') {
        return texts(list.strip_suffix(']')?.trim()).map(Value::Texts);
    }
    if let Ok(value) = text.parse() {
        return Some(Value::Bool(value));
    }
    // A number without a type is one of 32 bits, or a floating one.
    match text.parse() {
        Ok(number) => Some(Value::I32(number)),
        Err(_) => text.contains('.').then(|| text.parse().ok()).flatten().map(Value::F64),
    }
}

/// The texts of a list, between its brackets.
fn texts(mut list: &str) -> Option<Vec<String>> {
    let mut texts = Vec::new();
    while !list.is_empty() {
        let (text, rest) = quoted(list)?;
        texts.push(text);
        list = match rest.trim_start() {
            "" => "",
            rest => Some(rest.strip_prefix(',')?.trim_start()).filter(|rest| !rest.is_empty())?,
        };
    }
    Some(texts)
}

/// The text in quotes that `text` begins with, and what is behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|first| matches!(first, '\'' | '"'))?;
    let mut inside = String::new();
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => inside.push(match letters.next()?.1 {
                'n' => '\n',
                't' => '\t',
                other @ ('\\' | '\'' | '"') => other,
                _ => return None,
            }),
            letter if letter == quote => return Some((inside, &text[at + 1..])),
            letter => inside.push(letter),
        }
    }
    None
}

/// The properties that stand for the files of cgroup v2 in `settings`. Files without one are left out.
pub fn of_settings(settings: &[Setting]) -> Result<Vec<Property>> {
    let mut properties = Vec::new();
    for setting in settings.iter().filter(|setting| setting.v1.is_none()) {
        let value = setting.value.as_str();
        let wrong = || Error::usage(format!("{} {value:?}", setting.file), "is no value that systemd knows");
        let limit = |name: &str| Ok(Property::new(name, Value::U64(number(value).ok_or_else(wrong)?)));
        let list = |name: &str| Ok(Property::new(name, Value::Bytes(mask(value).ok_or_else(wrong)?)));
        let property = match setting.file.as_str() {
            "memory.max" => limit("MemoryMax"),
            "memory.high" => limit("MemoryHigh"),
            "memory.low" => limit("MemoryLow"),
            "memory.min" => limit("MemoryMin"),
            "memory.swap.max" => limit("MemorySwapMax"),
            "pids.max" => limit("TasksMax"),
            "cpu.weight" => limit("CPUWeight"),
            "cpuset.cpus" => list("AllowedCPUs"),
            "cpuset.mems" => list("AllowedMemoryNodes"),
            "io.weight" => match value.strip_prefix("default ").unwrap_or(value).parse() {
                Ok(weight) => Ok(Property::new("IOWeight", Value::U64(weight))),
                // Of one device alone.
                Err(_) => continue,
            },
            "cpu.max" => {
                let (per_second, period) = quota(value).ok_or_else(wrong)?;
                properties.push(Property::new("CPUQuotaPeriodUSec", Value::U64(period)));
                Ok(Property::new("CPUQuotaPerSecUSec", Value::U64(per_second)))
            }
            _ => continue,
        }?;
        properties.push(property);
    }
    Ok(properties)
}

/// "max" is the greatest number there is.
fn number(value: &str) -> Option<u64> {
    if value == "max" { Some(u64::MAX) } else { value.parse().ok() }
}

/// Microseconds of CPU time in each second, and the period, of a line of `cpu.max`.
fn quota(value: &str) -> Option<(u64, u64)> {
    let (quota, period) = value.split_once(' ').unwrap_or((value, "100000"));
    let period: u64 = period.parse().ok().filter(|period| *period > 0)?;
    if quota == "max" {
        return Some((u64::MAX, period));
    }
    // Rounded up, systemd comes to the same quota again.
    let per_second = (u128::from(quota.parse::<u64>().ok()?) * 1_000_000).div_ceil(u128::from(period));
    Some((per_second.try_into().ok()?, period))
}

/// A list of numbers such as `0-2,5` as a set of bits, the lowest in the first byte.
fn mask(list: &str) -> Option<Vec<u8>> {
    /// More processors than any kernel is built for.
    const MOST: usize = 1 << 16;
    let mut bytes = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        if bytes.len() <= last / 8 {
            bytes.resize(last / 8 + 1, 0);
        }
        (first..=last).for_each(|number| bytes[number / 8] |= 1 << (number % 8));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(file: &str, value: &str) -> Vec<(String, Value)> {
        let properties = of_settings(&[Setting::new(file, value)]).unwrap();
        properties.into_iter().map(|property| (property.name, property.value)).collect()
    }

    #[test]
    fn each_file_that_systemd_knows_is_a_property() {
        let one = |name: &str, value| vec![(name.to_owned(), value)];
        assert_eq!(of("memory.max", "67108864"), one("MemoryMax", Value::U64(67_108_864)));
        assert_eq!(of("memory.swap.max", "max"), one("MemorySwapMax", Value::U64(u64::MAX)));
        assert_eq!(of("pids.max", "50"), one("TasksMax", Value::U64(50)));
        assert_eq!(of("io.weight", "default 300"), one("IOWeight", Value::U64(300)));
        assert_eq!(of("cpuset.cpus", "0-2,9"), one("AllowedCPUs", Value::Bytes(vec![7, 2])));
        assert_eq!(of("io.weight", "8:0 300"), []);
        assert_eq!(of("hugetlb.2MB.max", "0"), []);
        assert_eq!(
            of("cpu.max", "25000 50000"),
            [
                ("CPUQuotaPeriodUSec".to_owned(), Value::U64(50_000)),
                ("CPUQuotaPerSecUSec".to_owned(), Value::U64(500_000)),
            ]
        );
        for (file, value) in
            [("cpuset.cpus", "2-1"), ("cpuset.cpus", "0-99999999"), ("pids.max", "many"), ("cpu.max", "1 0")]
        {
            assert!(of_settings(&[Setting::new(file, value)]).is_err(), "{file} {value}");
        }
    }

    #[test]
    fn an_annotation_is_a_property() {
        let property = |name: &str, text: &str| {
            let annotations = HashMap::from([
                (format!("{ANNOTATION}{name}"), text.to_owned()),
                ("other".to_owned(), "x".to_owned()),
            ]);
            of_annotations(Some(&annotations))
                .map(|mut properties| (properties.remove(0).name.clone(), properties.len()))
        };
        assert_eq!(property("TimeoutStopSec", "90").unwrap(), ("TimeoutStopUSec".to_owned(), 0));
        assert!(property("TimeoutStopSec", "'x'").is_err());
        assert!(property("DefaultDependencies", "maybe").is_err());
        assert!(property("bad name", "true").is_err());
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("'it\\'s'", Value::Text("it's".to_owned())),
            ("uint64 90000000", Value::U64(90_000_000)),
            ("7", Value::I32(7)),
            ("1.5", Value::F64(1.5)),
            ("['crio.service', \"b\"]", Value::Texts(vec!["crio.service".to_owned(), "b".to_owned()])),
            ("[]", Value::Texts(Vec::new())),
        ] {
            assert_eq!(parse(text), Some(value), "{text}");
        }
        for wrong in ["", "'", "'a", "['a' 'b']", "['a',]", "uint64 -1", "int32 x", "'a'b", "inf"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "[a-z0-9'\"\\\\\\[\\], .-]{0,20}|\\PC{0,20}") {
            let _ = parse(&text);
            let _ = mask(&text);
        }

        #[test]
        fn a_text_comes_back_from_its_quotes(text in "\\PC{0,20}") {
            let quoted = format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
            prop_assert_eq!(parse(&quoted), Some(Value::Text(text)));
        }
    }
}

//! Ranges of user and group IDs, as a user namespace or an idmapped mount translates them.
//!
//! ```text
//!  container 0 ─────────── 65535      (or: as stored in the file system)
//!            └ size ids ┘
//!  host  524288 ──────── 589823
//! ```

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use crate::error::{Error, Result};

/// As many ranges as the kernel takes in one map (`user_namespaces(7)`).
const MAX_RANGES: usize = 340;
/// The number that stands for no ID at all: one more than the largest.
const NO_ID: u64 = u32::MAX as u64;

/// One range: `CONTAINER`, `HOST` and `SIZE`, with `separator` between them.
pub fn range(text: &str, separator: char) -> Option<LinuxIdMapping> {
    let mut numbers = text.split(separator).map(|number| number.parse::<u32>().ok());
    let range = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then(|| one(range.0, range.1, range.2))
}

/// The range of `size` IDs that begins at `container` inside and at `host` outside.
pub fn one(container: u32, host: u32, size: u32) -> LinuxIdMapping {
    // Every field has a value, which is all that `build` asks for.
    let mapping = LinuxIdMappingBuilder::default().container_id(container).host_id(host).size(size).build();
    mapping.unwrap_or_default()
}

/// Refuses what the kernel would refuse without a word of why.
pub fn check(field: &str, ranges: &[LinuxIdMapping]) -> Result<()> {
    let wrong = |why: String| Error::usage(field, why);
    if ranges.is_empty() {
        return Err(wrong("maps no ID at all".to_owned()));
    }
    if ranges.len() > MAX_RANGES {
        return Err(wrong(format!("has more than {MAX_RANGES} ranges")));
    }
    for (index, range) in ranges.iter().enumerate() {
        let (container, host, size) = span(range);
        if size == 0 {
            return Err(wrong(format!("the range {container}:{host}:0 is empty")));
        }
        if container + size > NO_ID || host + size > NO_ID {
            return Err(wrong(format!("the range {container}:{host}:{size} goes beyond the last ID")));
        }
        let overlap = |a: u64, a_size: u64, b: u64, b_size: u64| a < b + b_size && b < a + a_size;
        for other in &ranges[..index] {
            let (other_container, other_host, other_size) = span(other);
            let side = if overlap(container, size, other_container, other_size) {
                "container"
            } else if overlap(host, size, other_host, other_size) {
                "host"
            } else {
                continue;
            };
            return Err(wrong(format!(
                "the ranges {other_container}:{other_host}:{other_size} and {container}:{host}:{size} \
                 overlap on the {side}'s side"
            )));
        }
    }
    Ok(())
}

fn span(range: &LinuxIdMapping) -> (u64, u64, u64) {
    (range.container_id().into(), range.host_id().into(), range.size().into())
}

/// What `id` of the container is on the host.
pub fn to_host(ranges: &[LinuxIdMapping], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.container_id()).filter(|offset| *offset < range.size())?;
        range.host_id().checked_add(offset)
    })
}

/// The content of `/proc/PID/uid_map` or `gid_map`.
pub fn map_file(ranges: &[LinuxIdMapping]) -> String {
    let line =
        |range: &LinuxIdMapping| format!("{} {} {}\n", range.container_id(), range.host_id(), range.size());
    ranges.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_map_that_the_kernel_would_refuse_is_refused_with_the_reason() {
        for (ranges, why) in [
            (vec![], "maps no ID"),
            (vec![one(0, 5, 0)], "is empty"),
            (vec![one(0, u32::MAX - 1, 2)], "beyond the last ID"),
            (vec![one(0, 100, 10), one(9, 200, 1)], "overlap on the container's side"),
            (vec![one(0, 100, 10), one(10, 109, 1)], "overlap on the host's side"),
        ] {
            let error = check("--userns", &ranges).unwrap_err();
            assert!(error.why.contains(why), "{ranges:?}: {error}");
        }
        check("--userns", &[one(0, 100, 10), one(10, 110, 1)]).unwrap();
    }

    #[test]
    fn a_range_is_three_numbers() {
        assert_eq!(range("0:100000:65536", ':'), Some(one(0, 100_000, 65536)));
        for wrong in ["", "0", "0:1", "0:1:2:3", "a:1:2", "-1:1:2", "0:1:4294967296"] {
            assert_eq!(range(wrong, ':'), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_id_of_a_legal_map_has_one_place_on_the_host(
            ranges in prop::collection::vec((0..50u32, 0..50u32, 1..20u32), 1..4),
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(c, h, s)| one(c, h, s)).collect();
            if check("map", &ranges).is_ok() {
                let hosts: Vec<_> = (0..100).filter_map(|id| to_host(&ranges, id)).collect();
                let unique: std::collections::HashSet<_> = hosts.iter().collect();
                prop_assert_eq!(unique.len(), hosts.len());
                let size: u32 = ranges.iter().map(LinuxIdMapping::size).sum();
                prop_assert_eq!(hosts.len(), usize::try_from(size).unwrap());
            }
        }
    }
}

//! `--userns auto`: a range of host IDs that no other container has.
//!
//! Taken from the ranges that `/etc/subuid` and `/etc/subgid` both give to the user `containers`, as podman
//! does, else from the range that systemd sets aside for containers. Which ones are taken is not recorded
//! anywhere but in the containers themselves.

use std::fs::File;
use std::ops::Range;

use oci_spec::runtime::LinuxIdMapping;
use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};
use crate::paths::Roots;
use crate::spec::{Spec, idmap};
use crate::state::{publish, store};

/// Whom the ranges in `/etc/subuid` belong to.
const OWNER: &str = "containers";
/// systemd's range for containers: `systemd.io/UIDS-GIDS`.
const DEFAULT: Range<u64> = 0x8_0000..0x7000_0000;

/// A range that no container has, and the promise that no other command takes it meanwhile: to be kept
/// until the container is in the store.
#[derive(Debug)]
pub struct Reserved {
    /// The range, from ID 0 inside.
    pub range: LinuxIdMapping,
    _lock: File,
}

/// Finds `size` host IDs that no container below `roots` has.
pub fn reserve(roots: &Roots, size: u32) -> Result<Reserved> {
    let dir = roots.containers();
    store::make_dir(&dir)?;
    let lock = File::open(&dir).map_err(|error| Error::io("open", &dir, &error))?;
    rustix::io::retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))
        .map_err(|errno| Error::at("lock", &dir, errno))?;
    let mut taken = Vec::new();
    for id in store::list(roots)? {
        // One that cannot be read is not one that runs.
        let Ok(Some(spec)) = publish::read_json::<Spec>(&roots.container(&id).spec()) else { continue };
        let Some(linux) = spec.linux() else { continue };
        let ranges = linux.uid_mappings().iter().chain(linux.gid_mappings()).flatten();
        taken.extend(ranges.map(|range| span(range.host_id().into(), range.size().into())));
    }
    let text = |path| std::fs::read_to_string(path).unwrap_or_default();
    let pools = pools(&text("/etc/subuid"), &text("/etc/subgid"));
    match first_free(&pools, size, &taken) {
        Some(start) => Ok(Reserved { range: idmap::one(0, start, size), _lock: lock }),
        None => Err(Error::failed("--userns auto", format!("no {size} host IDs are free in {pools:?}"))
            .hint("delete containers, or give the user `containers` more in /etc/subuid and /etc/subgid")),
    }
}

fn span(start: u64, size: u64) -> Range<u64> {
    start..start + size
}

/// The ranges that both files give to [`OWNER`]; without any, [`DEFAULT`].
fn pools(subuid: &str, subgid: &str) -> Vec<Range<u64>> {
    let of = |text: &str| -> Vec<Range<u64>> {
        let range = |line: &str| {
            let mut fields = line.trim().split(':');
            if fields.next() != Some(OWNER) {
                return None;
            }
            let (start, size) = (fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?);
            Some(span(start.into(), size.into()))
        };
        text.lines().filter_map(range).collect()
    };
    let (uids, gids) = (of(subuid), of(subgid));
    let both = |a: &Range<u64>, b: &Range<u64>| a.start.max(b.start)..a.end.min(b.end);
    let pools: Vec<_> = uids
        .iter()
        .flat_map(|uids| gids.iter().map(move |gids| both(uids, gids)))
        .filter(|range| !range.is_empty())
        .collect();
    if pools.is_empty() { vec![DEFAULT] } else { pools }
}

/// The first of the IDs in `pools` that begins `size` of them of which none is in `taken`.
fn first_free(pools: &[Range<u64>], size: u32, taken: &[Range<u64>]) -> Option<u32> {
    let size = u64::from(size);
    pools.iter().find_map(|pool| {
        let mut start = pool.start;
        while start + size <= pool.end.min(u32::MAX.into()) {
            let in_the_way = taken.iter().find(|taken| taken.start < start + size && start < taken.end);
            match in_the_way {
                // Always forward: the one in the way ends behind `start`.
                Some(taken) => start = taken.end,
                None => return u32::try_from(start).ok(),
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_pool_is_what_both_files_give_to_containers() {
        let default = vec![DEFAULT];
        assert_eq!(pools("", ""), default);
        assert_eq!(pools("containers:1000:10\n", "someone:1000:10\n"), default);
        assert_eq!(
            pools("x\ncontainers:1000:10\n", "containers:1005:10\ncontainers:a:b\n"),
            vec![span(1005, 5)]
        );
    }

    #[test]
    fn the_first_gap_that_is_large_enough_is_taken() {
        let pools = [100..200, 300..400];
        assert_eq!(first_free(&pools, 50, &[]), Some(100));
        assert_eq!(first_free(&pools, 50, &[span(120, 10)]), Some(130));
        assert_eq!(first_free(&pools, 100, &[span(120, 10)]), Some(300));
        assert_eq!(first_free(&pools, 101, &[]), None);
    }

    proptest! {
        #[test]
        fn what_is_free_is_free(
            taken in prop::collection::vec((0..500u64, 1..50u64), 0..20), size in 1..80u32,
        ) {
            let taken: Vec<_> = taken.into_iter().map(|(start, size)| span(start, size)).collect();
            let pool = 100..300_u64;
            if let Some(start) = first_free(std::slice::from_ref(&pool), size, &taken) {
                let found = span(start.into(), size.into());
                prop_assert!(pool.start <= found.start && found.end <= pool.end);
                prop_assert!(taken.iter().all(|taken| taken.end <= found.start || found.end <= taken.start));
            }
        }
    }
}

//! What an OCI configuration may ask for and podrun does not do yet: an error that names the field,
//! because a wall that is silently left out is worse than a container that does not start.

use oci_spec::runtime::{Linux, Spec};

use crate::error::{Error, Result};

/// Refuses a configuration that asks for more than podrun does.
pub(super) fn refuse(spec: &Spec) -> Result<()> {
    match spec.linux().iter().flat_map(linux).find(|(_, wanted)| *wanted) {
        Some((field, _)) => Err(Error::usage(format!("config {field}"), "is not supported yet")),
        None => Ok(()),
    }
}

fn linux(linux: &Linux) -> [(&'static str, bool); 2] {
    [
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.resources.network", linux.resources().as_ref().is_some_and(|own| own.network().is_some())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: &str) -> String {
        refuse(&serde_json::from_str(config).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        let config = |more: &str| format!(r#"{{"ociVersion":"1.0.2","linux":{{{more}}}}}"#);
        let limits = config(r#""resources":{"network":{"classID":5}}"#);
        assert!(refused(&limits).contains("linux.resources.network"));
        assert!(refused(&config(r#""intelRdt":{}"#)).contains("linux.intelRdt"));
    }

    #[test]
    fn what_asks_for_nothing_passes() {
        let config = r#"{"ociVersion":"1.0.2","hooks":{},"linux":{"resources":
            {"devices":[{"allow":false,"access":"rwm"}]}}}"#;
        refuse(&serde_json::from_str(config).unwrap()).unwrap();
    }
}

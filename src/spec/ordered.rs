//! A specification as it is written: the same container, the same text.

use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::Value;

use super::Spec;

/// A specification whose maps and sets have an order: that of their keys and names.
#[derive(Clone, Copy, Debug)]
pub struct Ordered<'a>(pub &'a Spec);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The map behind a value is sorted.
        let mut value = serde_json::to_value(self.0).map_err(S::Error::custom)?;
        let sets = value.pointer_mut("/process/capabilities").and_then(Value::as_object_mut);
        for set in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
            set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        }
        value.serialize(serializer)
    }
}

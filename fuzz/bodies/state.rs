//! `state.json`, `exit.json` and their kin after a power cut, or from another podrun: an error or a
//! value that means the same once it was written again.

use podrun::state::{ExitRecord, State};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) fn check(data: &[u8]) {
    survives::<State>(data);
    survives::<ExitRecord>(data);
}

fn survives<T: Serialize + DeserializeOwned>(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(data) else { return };
    let text = serde_json::to_vec_pretty(&value).expect("a value that was read can be written");
    let again: T = serde_json::from_slice(&text).expect("what podrun wrote");
    let json = |value: &T| serde_json::to_value(value).expect("it was written before");
    assert_eq!(json(&value), json(&again));
}

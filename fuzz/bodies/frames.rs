//! Whatever arrives at the control socket, in whatever pieces: an error or messages, the same ones
//! whether the bytes came at once or one by one, and never more memory than a frame may have.

use bytes::{BufMut, BytesMut};
use podrun::protocol::{Hello, Reply, Request, frame};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) fn check(data: &[u8]) {
    let at_once = bodies(data, usize::MAX);
    assert_eq!(at_once, bodies(data, 1));
    for body in at_once.0 {
        assert!(body.len() <= frame::MAX_BODY);
        survives::<Hello>(&body);
        survives::<Request>(&body);
        survives::<Reply>(&body);
    }
}

/// The bodies in `data` up to the first error, and whether there was one.
fn bodies(data: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
    for piece in data.chunks(piece.min(data.len()).max(1)) {
        buffer.put_slice(piece);
        loop {
            match frame::next(&mut buffer) {
                Ok(Some(body)) => found.push(body.to_vec()),
                Ok(None) => break,
                Err(_) => return (found, true),
            }
        }
    }
    (found, false)
}

/// What can be read can be written, and is the same when it is read again.
fn survives<T: Serialize + DeserializeOwned>(body: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(body) else { return };
    let mut buffer = BytesMut::new();
    if frame::encode(&message, &mut buffer).is_err() {
        return;
    }
    let again: T = frame::decode(&mut buffer).expect("what podrun wrote").expect("a whole frame");
    assert_eq!(json(&message), json(&again));
}

fn json<T: Serialize>(message: &T) -> serde_json::Value {
    serde_json::to_value(message).expect("it was written before")
}

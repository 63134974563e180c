//! Framing, without I/O: a little-endian `u32` length, then that many bytes of JSON.
//!
//! "Not enough bytes yet" is `Ok(None)`; a length beyond the cap, or a body that is not what was
//! expected, is an error, and the connection is of no more use.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// The longest body, in bytes: nobody's length makes podrun allocate more.
pub const MAX_BODY: usize = 1 << 20;
/// The most file descriptors beside one frame.
pub use crate::sys::pass::MAX_FDS;
const HEADER: usize = 4;

/// Appends `message` to `buffer` as one frame.
pub fn encode<T: Serialize>(message: &T, buffer: &mut BytesMut) -> Result<()> {
    let start = buffer.len();
    buffer.put_u32_le(0);
    let bad = |why: String| Error::failed("control socket", why);
    serde_json::to_writer((&mut *buffer).writer(), message).map_err(|error| bad(error.to_string()))?;
    let length = buffer.len() - start - HEADER;
    if length > MAX_BODY {
        buffer.truncate(start);
        return Err(bad(format!("a message of {length} bytes is longer than {MAX_BODY}")));
    }
    // `as`: not above MAX_BODY.
    buffer[start..start + HEADER].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(())
}

/// Takes one whole body from the front of `buffer`.
pub fn next(buffer: &mut BytesMut) -> Result<Option<Bytes>> {
    let Some(header) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
    let length = u32::from_le_bytes(*header) as usize;
    if length > MAX_BODY {
        return Err(Error::failed(
            "control socket",
            format!("a frame of {length} bytes is longer than {MAX_BODY}"),
        ));
    }
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    buffer.advance(HEADER);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Takes one message from the front of `buffer`.
pub fn decode<T: DeserializeOwned>(buffer: &mut BytesMut) -> Result<Option<T>> {
    let Some(body) = next(buffer)? else { return Ok(None) };
    serde_json::from_slice(&body).map(Some).map_err(|error| {
        Error::failed("control socket", format!("a message that cannot be understood: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Hello, Request};
    use proptest::prelude::*;

    #[test]
    fn a_length_beyond_the_cap_is_refused_before_its_bytes_arrive() {
        let mut buffer = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
        assert!(next(&mut buffer).is_err());
    }

    #[test]
    fn hello_agrees_on_the_newest_common_protocol_or_says_why_not() {
        assert_eq!(Hello::ours().agree().unwrap(), crate::protocol::VERSION);
        let newer = Hello { protocol: 9, oldest: 9, build: "podrun 9.0".into() };
        let error = newer.agree().unwrap_err();
        assert!(error.why.contains("podrun 9.0"), "{error}");
    }

    proptest! {
        #[test]
        fn frames_come_back_whole_however_the_bytes_are_cut(
            signals in prop::collection::vec(any::<i32>(), 1..20),
            cut in 1usize..64,
        ) {
            let mut wire = BytesMut::new();
            for signal in &signals {
                encode(&Request::Signal { signal: *signal, all: false }, &mut wire).unwrap();
            }
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(request) = decode::<Request>(&mut buffer).unwrap() {
                    let Request::Signal { signal, .. } = request else { panic!("{request:?}") };
                    got.push(signal);
                }
            }
            prop_assert_eq!(got, signals);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn garbage_never_panics_and_never_grows_the_buffer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode::<Request>(&mut buffer) {}
            prop_assert!(buffer.len() <= bytes.len());
        }
    }
}

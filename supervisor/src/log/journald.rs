//! The host's journal, by its native protocol: a datagram of `KEY=value` lines for each record.
//!
//! A record is sent, and then counted: a writer that is killed in between sends one record twice.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use podrun::error::{Error, Result};
use podrun::log::journald::SOCKET;
use podrun::log::line::{self, Stream, Tag};
use podrun::protocol::LogPosition;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};

use super::journal::Journal;

/// How long one record may wait for a journal that does not read.
const PATIENCE: Duration = Duration::from_secs(1);
/// What stands before each datagram in the records: its length.
const LENGTH: usize = 4;

/// The journal, as one output.
#[derive(Debug)]
pub(super) struct Journald {
    /// The fields that are the same in every record.
    fields: String,
    index: usize,
    socket: Option<OwnedFd>,
}

impl Journald {
    /// For the records of container `id`; its state is the journal file's place number `index`.
    pub(super) fn new(id: &str, index: usize) -> Self {
        let short = &id[..id.len().min(12)];
        let fields = format!(
            "CONTAINER_NAME={id}\nCONTAINER_ID={short}\nCONTAINER_ID_FULL={id}\nSYSLOG_IDENTIFIER={id}\n"
        );
        Self { fields, index, socket: None }
    }

    /// Appends the datagrams of `output`.
    pub(super) fn format(&self, stream: Stream, output: &[u8], out: &mut BytesMut) {
        let priority = if stream == Stream::Stdout { 6 } else { 3 };
        for (payload, tag) in line::pieces(output) {
            let more = if tag == Tag::Partial { "CONTAINER_PARTIAL_MESSAGE=true\n" } else { "" };
            self.datagram(priority, more, payload, out);
        }
    }

    /// Appends the datagram that tells of a gap.
    pub(super) fn marker(&self, text: &str, out: &mut BytesMut) {
        self.datagram(4, "", text.as_bytes(), out);
    }

    fn datagram(&self, priority: u8, more: &str, message: &[u8], out: &mut BytesMut) {
        let head = format!("{}PRIORITY={priority}\n{more}MESSAGE=", self.fields);
        // `as`: a payload is at most MAX_PAYLOAD bytes.
        out.put_u32((head.len() + message.len() + 1) as u32);
        out.put_slice(head.as_bytes());
        out.put_slice(message);
        out.put_u8(b'\n');
    }

    /// How many datagrams `records` are.
    pub(super) fn count(records: &[u8]) -> usize {
        std::iter::successors(Some(records), |rest| split(rest).map(|(_, rest)| rest)).count() - 1
    }

    /// Sends those that were not sent yet.
    pub(super) fn write(&mut self, journal: &mut Journal, records: &[u8]) -> Result<()> {
        let done = journal.slot().places[self.index].done;
        let mut rest = usize::try_from(done).ok().and_then(|done| records.get(done..)).unwrap_or_default();
        while let Some((datagram, behind)) = split(rest) {
            self.send(datagram).map_err(|errno| {
                self.socket = None;
                Error::at("write", SOCKET, errno)
            })?;
            journal.commit(|slot| slot.places[self.index].done += (LENGTH + datagram.len()) as u64);
            rest = behind;
        }
        Ok(())
    }

    /// How many bytes of the records were sent; the others never will be.
    pub(super) fn give_up(&self, journal: &Journal) -> (usize, LogPosition) {
        let place = journal.slot().places[self.index];
        (usize::try_from(place.done).unwrap_or(usize::MAX), place.position)
    }

    fn send(&mut self, datagram: &[u8]) -> Result<(), Errno> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => {
                let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
                set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
                self.socket.insert(socket)
            }
        };
        let address = SocketAddrUnix::new(Path::new(SOCKET))?;
        loop {
            match sendto(socket, datagram, SendFlags::NOSIGNAL, &address) {
                Err(Errno::INTR) => {}
                sent => return sent.map(drop),
            }
        }
    }
}

fn split(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = records.split_first_chunk::<LENGTH>()?;
    // `as`: u32 fits.
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

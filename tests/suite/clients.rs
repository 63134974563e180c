//! What a client of the control socket may do to a container: nothing that it did not ask for.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use podrun::client::Client;
use podrun::paths::Roots;
use podrun::protocol::{Exec, Reply, Request};
use rustix::net::{Shutdown, shutdown};
use rustix::process::Signal;

use crate::harness::process::{self, descriptors, status_field};
use crate::harness::{Podrun, busybox, rounds};
use crate::keeper::freeze;

const HELLO: &[u8] = br#"{"protocol":1,"oldest":1,"build":"test"}"#;

fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("short");
    [&length.to_le_bytes()[..], body].concat()
}

fn connect(podrun: &Podrun) -> UnixStream {
    UnixStream::connect(podrun.run_root().join("c/shim.sock")).expect("the shim listens")
}

/// A client that says `bytes` and stays.
fn saying(podrun: &Podrun, bytes: &[u8]) -> UnixStream {
    let mut stream = connect(podrun);
    // It may be thrown out before it is finished.
    let _ = stream.write_all(bytes);
    stream
}

/// Everything that can be asked of a container is answered, and nobody lost their place.
fn serves(podrun: &Podrun) {
    podrun.cmd(["exec", "c", "--", "echo", "hello"]).prints("hello\n");
    podrun.cmd(["kill", "c", "WINCH"]).exits(0);
    assert_eq!(podrun.status("c"), "running");
}

fn data(podrun: &Podrun) -> u64 {
    let sizes = podrun.supervisors().into_iter().filter_map(|pid| status_field(pid, "VmData"));
    sizes.map(|text| text.trim_end_matches(" kB").trim().parse::<u64>().expect("a number")).sum()
}

#[test]
fn what_is_no_request_disturbs_nobody() {
    let podrun = Podrun::new();
    podrun.run_script("c", "trap 'exit 3' TERM; echo ready; while :; do sleep 1000 & wait; done");
    let waiter = podrun.cmd(["wait", "c"]).spawn();
    serves(&podrun);
    let before = data(&podrun);
    let half = &frame(HELLO)[..9];
    let unfinished = [&frame(HELLO)[..], &100_u32.to_le_bytes(), b"{\"wait"].concat();
    let endless = u32::MAX.to_le_bytes();
    let unknown = [frame(HELLO), frame(br#"{"explode":{}}"#)].concat();
    // Requests whose answers it never reads.
    let mute = [frame(HELLO), frame(br#"{"signal":{"signal":28,"all":false}}"#).repeat(2000)].concat();
    let noise: Vec<u8> = (0..9999_u32).map(|i| (i * 31 % 251).to_le_bytes()[0]).collect();
    let exec_without_descriptors =
        [frame(HELLO), frame(br#"{"exec":{"args":["x"],"env":[],"cwd":null,"user":null,"detach":false}}"#)]
            .concat();
    let said: [&[u8]; 8] =
        [b"", half, &unfinished, &endless, &unknown, &mute, &noise, &exec_without_descriptors];
    let clients: Vec<_> = said.iter().cycle().take(80).map(|bytes| saying(&podrun, bytes)).collect();
    serves(&podrun);
    drop(clients);
    serves(&podrun);
    assert!(data(&podrun) < before + 2048, "{} kB of data, {before} before", data(&podrun));
    podrun.cmd(["kill", "c"]).exits(0);
    assert_eq!(waiter.finish().out(), "3\n");
}

#[test]
fn a_delete_that_means_another_container_is_not_obeyed() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let roots = Roots::new(Some(podrun.root()), Some(podrun.run_root())).expect("roots");
    let paths = roots.container(&"c".parse().expect("an ID"));
    let mut client = Client::connect(&paths).expect("connect").expect("the shim listens");
    let delete = |created| Request::Delete { force: true, created: Some(created) };
    let before = jiff::Timestamp::UNIX_EPOCH;
    assert_eq!(client.call(&delete(before)).expect("an answer"), Some(Reply::Nothing));
    serves(&podrun);
    let created = podrun.state("c")["createdAt"].as_str().expect("a time").parse().expect("a time");
    assert_eq!(client.call(&delete(created)).expect("an answer"), Some(Reply::Done));
    podrun.cmd(["state", "c"]).fails(1, "does not exist");
}

#[test]
fn a_length_beyond_any_message_ends_the_connection() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let mut client = saying(&podrun, &u32::MAX.to_le_bytes());
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("the shim closes it");
    assert!(rest.is_empty());
}

#[test]
fn an_exec_whose_client_goes_before_its_turn_is_not_run() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let roots = Roots::new(Some(podrun.root()), Some(podrun.run_root())).expect("roots");
    let paths = roots.container(&"c".parse().expect("an ID"));
    let mut client = Client::connect(&paths).expect("connect").expect("the shim listens");
    client.call(&Request::Signal { signal: 28, all: false }).expect("it is served");
    let shim = podrun.shim_pid("c");
    freeze(shim);
    let null = File::options().read(true).write(true).open("/dev/null").expect("open /dev/null");
    let (mut witness, theirs) = UnixStream::pair().expect("a socket pair");
    let exec = Exec { args: vec!["true".to_owned()], witnessed: true, ..Exec::default() };
    let beside = [null.as_fd(), null.as_fd(), null.as_fd(), theirs.as_fd()];
    client.send(&Request::Exec(Box::new(exec)), &beside).expect("ask");
    // A child that another scenario forks just now has a copy.
    shutdown(&client, Shutdown::Both).expect("shut a socket");
    drop((client, theirs));
    process::send(shim, Signal::CONT);
    let mut said = Vec::new();
    witness.read_to_end(&mut said).expect("nobody has the other end any more");
    assert_eq!(String::from_utf8_lossy(&said), "", "there was a process");
    serves(&podrun);
}

#[test]
fn ten_thousand_idle_clients_keep_nobody_out_campaign() {
    let podrun = Podrun::new();
    podrun.run_script("c", "trap 'exit 3' TERM; echo ready; while :; do sleep 1000 & wait; done");
    let waiter = podrun.cmd(["wait", "c"]).spawn();
    serves(&podrun);
    let count = rounds(10_000).max(1_200);
    let hello = frame(HELLO);
    let clients: Vec<_> = (0..count).map(|i| saying(&podrun, &hello[..i % 2 * 7])).collect();
    serves(&podrun);
    let most = podrun.supervisors().into_iter().map(|pid| descriptors(pid).len()).max();
    assert!(most.is_some_and(|most| most < 700), "{most:?} descriptors");
    drop(clients);
    podrun.cmd(["kill", "c"]).exits(0);
    assert_eq!(waiter.finish().out(), "3\n");
}

#[test]
fn more_who_wait_than_there_is_room_for_are_told_so_and_a_kill_still_comes_through() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let wait = [frame(HELLO), frame(br#""wait""#)].concat();
    let clients: Vec<_> = (0..512).map(|_| saying(&podrun, &wait)).collect();
    // They are served in the order they came in.
    podrun.cmd(["kill", "c", "WINCH"]).exits(0);
    podrun.cmd(["wait", "c"]).fails(1, "clients are waiting already");
    podrun.cmd(["kill", "c"]).exits(0);
    for mut client in clients {
        let mut said = Vec::new();
        client.read_to_end(&mut said).expect("the shim answers and ends");
        // The length of a frame is no text.
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("ended"), "{said:?}");
    }
}

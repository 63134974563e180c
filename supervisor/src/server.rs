//! The control socket: one task for each client, which reads its requests, passes them to the
//! driver, and writes the answers.
//!
//! ```text
//!  client ──frames──▶ serve ──Command──▶ driver
//!         ◀─frames─── serve ◀──Answer─── driver
//!                       └── Follow, Stdin and Terminal need no decision and are answered here
//! ```
//!
//! A client is a task of its own: silent, slow, hostile or dead, it delays nobody else.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use bytes::BytesMut;
use podrun::error::{Error, Result};
use podrun::launch::{Stdio, Terminal};
use podrun::protocol::{Exec, LogPosition, Reply, Request};
use podrun::state::ProcessRef;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::connection::Connection;
use crate::exec::Running;
use crate::exits::{Exits, Orphan};
use crate::guests::{Guests, Place};
use crate::keep::{Keep, Slot, start_time};
use crate::ledger::{Debt, Ledger};
use crate::log::Follow;
use crate::machine::Ticket;

/// What the driver is asked to decide.
#[derive(Debug)]
pub(crate) enum Ask {
    /// A request that needs nothing beside it.
    Plain(Request),
    /// Run a process inside, with this stdio and its client's witness.
    Exec(Box<Exec>, Stdio, Option<OwnedFd>),
    /// Find a process that an earlier shim started.
    Orphan(ProcessRef),
    /// Become this program; the connection of whoever wants it.
    Upgrade(OwnedFd, OwnedFd),
    /// The client of this ticket went away.
    Gone,
}

/// One question to the driver.
#[derive(Debug)]
pub(crate) struct Command {
    /// Which request it is.
    pub(crate) ticket: Ticket,
    /// What is asked.
    pub(crate) ask: Ask,
    /// Where the answer goes; absent for [`Ask::Gone`].
    pub(crate) answer: Option<oneshot::Sender<Answer>>,
}

/// The driver's answer, with the debt that is settled once it was written.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A reply for the client.
    Reply(Reply, Debt),
    /// The process that was asked for is being executed.
    Exec(Running),
    /// The process that was asked for.
    Orphan(Orphan, Debt),
}

/// What all clients share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The way to the keeper.
    pub(crate) keep: Rc<Keep>,
    /// How processes of earlier shims ended.
    pub(crate) exits: Exits,
    /// The way to the driver.
    /// Boxed: a channel keeps room for 32 of them.
    pub(crate) commands: mpsc::Sender<Box<Command>>,
    /// How far the log has come.
    pub(crate) log: Follow,
    /// The writing end of the container's stdin, until it was closed.
    pub(crate) stdin: RefCell<Option<OwnedFd>>,
    /// The container's terminal.
    pub(crate) terminal: RefCell<Option<Terminal>>,
    /// Who is still owed something.
    pub(crate) ledger: Ledger,
    /// The next ticket.
    pub(crate) tickets: Cell<u64>,
    /// Who is connected.
    pub(crate) guests: Guests,
    /// Clients that acknowledged the end; closed with the shim's own.
    pub(crate) leaving: RefCell<Vec<Connection>>,
}

/// Accepts clients for as long as the shim lives.
pub(crate) async fn listen(listener: Rc<UnixListener>, shared: Rc<Shared>) {
    loop {
        let place = shared.guests.welcome().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                // The socket's mode keeps others out; this holds even where a mode was changed.
                if !stream.peer_cred().is_ok_and(|peer| peer.uid() == 0) {
                    continue;
                }
                let shared = shared.clone();
                tokio::task::spawn_local(async move {
                    serve(Connection::new(stream, BytesMut::new()), shared, place).await;
                });
            }
            Err(error) => {
                tracing::warn!("accept a client: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one client that has not said hello yet.
async fn serve(mut connection: Connection, shared: Rc<Shared>, place: Place) {
    let greeted = tokio::select! {
        greeted = connection.greet() => greeted,
        () = place.must_leave() => return,
    };
    match greeted {
        Ok(true) => converse(connection, shared, place).await,
        Ok(false) => {}
        Err(error) => tracing::debug!("a client: {error}"),
    }
}

/// Serves the creating command, which has said hello and was told that the container is built.
pub(crate) async fn serve_creator(stream: UnixStream, buffer: BytesMut, shared: Rc<Shared>) {
    // Its requests are a sequence, and the container may end between two of them: the end waits
    // until it has gone on and closed.
    let debt = shared.ledger.unacknowledged();
    let place = shared.guests.welcome().await;
    converse(Connection::new(stream, buffer), shared, place).await;
    drop(debt);
}

async fn converse(connection: Connection, shared: Rc<Shared>, place: Place) {
    let mut client = Client { connection, shared, place, unacknowledged: None };
    if let Err(error) = client.converse().await {
        tracing::debug!("a client: {error}");
    }
    let Client { connection, shared, .. } = client;
    if shared.log.ended() {
        // It may have closed its side only, to be told by the other one when the shim is gone.
        shared.leaving.borrow_mut().push(connection);
    }
}

#[derive(Debug)]
struct Client {
    connection: Connection,
    shared: Rc<Shared>,
    place: Place,
    /// The last answer was one that the end of the shim waits to see acknowledged.
    unacknowledged: Option<Debt>,
}

impl Client {
    async fn converse(&mut self) -> Result<()> {
        loop {
            self.place.is_idle();
            let request = tokio::select! {
                request = self.connection.next() => request?,
                () = self.place.must_leave() => return Ok(()),
            };
            self.unacknowledged = None;
            let Some(request) = request else { return Ok(()) };
            self.place.is_busy();
            let waits = matches!(
                request,
                Request::Wait | Request::Follow { .. } | Request::Exec(_) | Request::ExecWait(_)
            );
            let _waiting = match waits.then(|| self.place.waits()).transpose() {
                Ok(waiting) => waiting,
                Err(error) => {
                    self.connection.close_fds();
                    self.connection.send(&Reply::Refused(error), &[]).await?;
                    continue;
                }
            };
            match request {
                Request::Follow { seen } => self.follow(seen).await?,
                Request::Stdin { once } => self.stdin(once).await?,
                Request::Terminal => self.terminal().await?,
                Request::Exec(exec) => {
                    let files = self.connection.take_fds::<3>()?;
                    let witness = match exec.witnessed {
                        true => self.connection.take_fds::<1>()?.into_iter().next(),
                        false => None,
                    };
                    let stdio = match exec.terminal {
                        Some(size) => Stdio::Terminal { size: Some(size) },
                        None => Stdio::Files(files),
                    };
                    if !self.exec(exec, stdio, witness).await? {
                        return Ok(());
                    }
                }
                Request::ExecWait(process) => {
                    if !self.exec_wait(process).await? {
                        return Ok(());
                    }
                }
                // The process has ended meanwhile: its client will read so.
                Request::ExecSignal { .. } => {}
                Request::Upgrade => {
                    let [program] = self.connection.take_fds::<1>()?;
                    let connection = self.connection.duplicate()?;
                    match self.ask(Ask::Upgrade(program, connection)).await {
                        Some(Answer::Reply(reply, _debt)) => self.connection.send(&reply, &[]).await?,
                        _ => return Ok(()),
                    }
                }
                Request::Launch { .. } | Request::Adopt { .. } => {
                    let error = Error::failed("control socket", "this container was launched already");
                    self.connection.send(&Reply::Refused(error), &[]).await?;
                }
                plain => match self.ask(Ask::Plain(plain)).await {
                    Some(Answer::Reply(reply, debt)) => {
                        if matches!(reply, Reply::Ended(_)) {
                            self.unacknowledged = Some(self.shared.ledger.unacknowledged());
                        }
                        self.connection.send(&reply, &[]).await?;
                        drop(debt);
                    }
                    _ => return Ok(()),
                },
            }
        }
    }

    /// The driver's answer; `None` where the client went away first, or the shim ends without one.
    async fn ask(&mut self, ask: Ask) -> Option<Answer> {
        let ticket = Ticket(self.shared.tickets.get());
        self.shared.tickets.set(ticket.0 + 1);
        let (sender, mut receiver) = oneshot::channel();
        self.shared.commands.send(Box::new(Command { ticket, ask, answer: Some(sender) })).await.ok()?;
        tokio::select! {
            biased;
            answer = &mut receiver => answer.ok(),
            () = self.connection.closed() => {
                let gone = Command { ticket, ask: Ask::Gone, answer: None };
                let _ = self.shared.commands.send(Box::new(gone)).await;
                None
            }
        }
    }

    async fn follow(&mut self, seen: LogPosition) -> Result<()> {
        let log = self.shared.log.clone();
        // Owed from now on: the end must find this follower before it finds nobody left to serve.
        let debt = self.shared.ledger.unsent();
        let now = tokio::select! {
            now = log.beyond(seen) => match now {
                Some(now) => now,
                None => return Ok(()),
            },
            () = self.connection.closed() => return Ok(()),
        };
        if now.ended {
            self.unacknowledged = Some(self.shared.ledger.unacknowledged());
        }
        let reply = Reply::Log { position: now.position, ended: now.ended };
        let sent = self.connection.send(&reply, &[]).await;
        drop(debt);
        sent
    }

    async fn stdin(&mut self, once: bool) -> Result<()> {
        let writer = match once {
            // The client's copy is the last one: the end of its stdin, or its own, is the container's.
            true => {
                self.shared.keep.let_go(Slot::Stdin);
                self.shared.stdin.take().map(Ok)
            }
            false => self.shared.stdin.borrow().as_ref().map(|writer| writer.as_fd().try_clone_to_owned()),
        };
        match writer {
            Some(Ok(writer)) => self.connection.send(&Reply::Stdin, &[writer.as_fd()]).await,
            Some(Err(error)) => {
                let error = Error::io("pass", "the container's stdin", &error);
                self.connection.send(&Reply::Refused(error), &[]).await
            }
            None => {
                let error = Error::failed("the container's stdin", "is not open")
                    .hint("create the container with `-i`");
                self.connection.send(&Reply::Refused(error), &[]).await
            }
        }
    }

    async fn terminal(&mut self) -> Result<()> {
        let master = self.shared.terminal.borrow().as_ref().map(|terminal| terminal.master.try_clone());
        match master {
            Some(Ok(master)) => self.connection.send(&Reply::Terminal, &[master.as_fd()]).await,
            Some(Err(error)) => {
                let error = Error::io("pass", "the container's terminal", &error);
                self.connection.send(&Reply::Refused(error), &[]).await
            }
            None => {
                let error = Error::failed("the container's terminal", "it has none")
                    .hint("create the container with `-t`");
                self.connection.send(&Reply::Refused(error), &[]).await
            }
        }
    }

    /// Runs one process to its end. `false`: the client is gone.
    async fn exec(&mut self, exec: Box<Exec>, stdio: Stdio, witness: Option<OwnedFd>) -> Result<bool> {
        let detach = exec.detach;
        let running = match self.ask(Ask::Exec(exec, stdio, witness)).await {
            Some(Answer::Exec(running)) => running,
            Some(Answer::Reply(reply, debt)) => {
                self.connection.send(&reply, &[]).await?;
                drop(debt);
                return Ok(true);
            }
            Some(Answer::Orphan(..)) | None => return Ok(false),
        };
        let Running { pid, mut started, mut ended, signals } = running;
        let (outcome, debt) = loop {
            tokio::select! {
                biased;
                told = &mut started => match told {
                    Ok(told) => break told,
                    Err(_) => return Ok(false),
                },
                request = self.connection.next() => match request? {
                    Some(Request::ExecSignal { signal }) => signals.send(signal),
                    Some(_) => return Err(Error::failed("control socket", "a request during an exec")),
                    None => return Ok(false),
                },
            }
        };
        let (reply, terminal) = match outcome {
            // It was not reaped yet: its pid is its own.
            Ok(terminal) => (Reply::Started { pid, start_time: start_time(pid).unwrap_or(0) }, terminal),
            Err(error) => (Reply::Refused(error), None),
        };
        let refused = matches!(reply, Reply::Refused(_));
        let fds: Vec<_> = terminal.iter().map(|terminal| terminal.master.as_fd()).collect();
        self.connection.send(&reply, &fds).await?;
        drop(debt);
        // From here on it is the client's alone.
        drop(terminal);
        if refused || detach {
            return Ok(true);
        }
        loop {
            tokio::select! {
                biased;
                ending = &mut ended => {
                    let Ok((ending, debt)) = ending else { return Ok(false) };
                    self.unacknowledged = Some(self.shared.ledger.unacknowledged());
                    self.connection.send(&Reply::ExecEnded(ending), &[]).await?;
                    drop(debt);
                    return Ok(true);
                }
                request = self.connection.next() => match request? {
                    Some(Request::ExecSignal { signal }) => signals.send(signal),
                    Some(_) => return Err(Error::failed("control socket", "a request during an exec")),
                    None => return Ok(false),
                },
            }
        }
    }
    /// Tells how a process ended that an earlier shim started. `false`: the client is gone.
    async fn exec_wait(&mut self, process: ProcessRef) -> Result<bool> {
        let Some(Answer::Orphan(orphan, debt)) = self.ask(Ask::Orphan(process)).await else {
            return Ok(false);
        };
        let exits = self.shared.exits.clone();
        let ending = exits.ending(&orphan);
        tokio::pin!(ending);
        loop {
            tokio::select! {
                biased;
                ending = &mut ending => {
                    self.unacknowledged = Some(self.shared.ledger.unacknowledged());
                    let unknown = || {
                        Error::failed("exec", "its exit code is unknown: it ended while no shim lived")
                    };
                    let reply = ending.map_or_else(|| Reply::Refused(unknown()), Reply::ExecEnded);
                    self.connection.send(&reply, &[]).await?;
                    drop(debt);
                    return Ok(true);
                }
                request = self.connection.next() => match request? {
                    Some(Request::ExecSignal { signal }) => orphan.signal(signal),
                    Some(_) => return Err(Error::failed("control socket", "a request during an exec")),
                    None => return Ok(false),
                },
            }
        }
    }
}

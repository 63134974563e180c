//! What is said to systemd, over D-Bus.
//!
//! ```text
//!  the system's bus, else systemd's own socket ─▶ Manager: call ─▶ job ─▶ JobRemoved(job, result)
//! ```

use std::os::unix::net::UnixStream;

use tokio_stream::StreamExt;
use zbus::connection::Builder;
use zbus::{Connection, MessageStream, ObjectPath, OwnedObjectPath, Variant};

use super::PATIENCE;
use super::property::{Property, Value};
use crate::error::{Error, Result};
use crate::sys::is_single_threaded;

/// Where systemd listens by itself, also before there is a bus, and where none was ever installed.
const OWN: &str = "/run/systemd/private";

/// The signal that tells of a job's end: its number, path, unit and result.
const REMOVED: &str = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
const FROM_THE_BUS: &str = "type='signal',sender='org.freedesktop.systemd1',\
                            interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// `org.freedesktop.systemd1.Manager` (`org.freedesktop.systemd1(5)`).
#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        aux: &[(&str, Vec<(&str, Variant<'_>)>)],
    ) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn set_unit_properties(
        &self,
        name: &str,
        runtime: bool,
        properties: &[(&str, Variant<'_>)],
    ) -> zbus::Result<()>;
}

/// Makes the scope `unit`; returns once its cgroup is there.
pub(super) fn start(unit: &str, properties: &[Property]) -> Result<()> {
    let what = format!("have systemd start {unit}");
    ask(&what, async |manager| {
        let started = job(&manager, async || {
            manager.start_transient_unit(unit, "fail", &variants(properties), &[]).await
        })
        .await;
        match started {
            // What is left of one before, whose cgroup is gone: it is still being stopped, or has failed.
            Err(error) if is(&error, "UnitExists") => {
                let _ = manager.reset_failed_unit(unit).await;
                match job(&manager, async || manager.stop_unit(unit, "replace").await).await {
                    Err(error) if !is(&error, "NoSuchUnit") => Err(error),
                    _ => {
                        job(&manager, async || {
                            manager.start_transient_unit(unit, "fail", &variants(properties), &[]).await
                        })
                        .await
                    }
                }
            }
            other => other,
        }
    })
}

/// Stops `unit`; returns once it is gone.
pub(super) fn stop(unit: &str) -> Result<()> {
    let what = format!("have systemd stop {unit}");
    ask(&what, async |manager| match job(&manager, async || manager.stop_unit(unit, "replace").await).await {
        Err(error) if is(&error, "NoSuchUnit") => Ok(()),
        other => other,
    })
}

/// Changes properties of `unit`, until the next boot.
pub(super) fn set(unit: &str, properties: &[Property]) -> Result<()> {
    let what = format!("have systemd change {unit}");
    ask(&what, async |manager| manager.set_unit_properties(unit, true, &variants(properties)).await)
}

/// Connects, does `talk`, and is gone again. On a thread of its own where this one has a runtime already: a shim's,
/// which stands still meanwhile, for its container is cloned next, and that wants one thread.
fn ask(what: &str, talk: impl AsyncFnOnce(ManagerProxy<'static>) -> zbus::Result<()> + Send) -> Result<()> {
    if tokio::runtime::Handle::try_current().is_err() {
        return ask_here(what, talk);
    }
    let told = std::thread::scope(|scope| scope.spawn(|| ask_here(what, talk)).join());
    // A thread that has been joined may still be counted for a moment.
    while !is_single_threaded().unwrap_or(true) {
        std::thread::yield_now();
    }
    told.unwrap_or_else(|_| Err(Error::failed(what, "it panicked")))
}

fn ask_here(what: &str, talk: impl AsyncFnOnce(ManagerProxy<'static>) -> zbus::Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::io("start", "a runtime", &error))?;
    let told = runtime.block_on(async {
        let talk = async {
            let connection = connect().await?;
            let manager = ManagerProxy::builder(&connection)
                .cache_properties(zbus::proxy::CacheProperties::No)
                .build()
                .await?;
            talk(manager).await
        };
        tokio::time::timeout(PATIENCE, talk).await
    });
    match told {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Error::failed(what, said(&error))),
        Err(_) => Err(Error::failed(what, format!("no answer in {} seconds", PATIENCE.as_secs()))
            .hint("`systemctl status` tells whether systemd itself answers")),
    }
}

async fn connect() -> zbus::Result<Connection> {
    match Builder::system().build().await {
        Ok(connection) => Ok(connection),
        Err(error) => {
            tracing::debug!("the system's bus: {error}");
            let Ok(own) = UnixStream::connect(OWN) else { return Err(error) };
            Builder::unix_stream(own).p2p().build().await
        }
    }
}

/// Does what `begin` calls, and waits for the end of the job it makes.
async fn job(
    manager: &ManagerProxy<'_>,
    begin: impl AsyncFnOnce() -> zbus::Result<OwnedObjectPath>,
) -> zbus::Result<()> {
    // In this order: a job may end before its number is known here.
    let connection = manager.inner().connection();
    // On systemd's own socket nobody has a name.
    let rule = if connection.is_bus() { FROM_THE_BUS } else { REMOVED };
    let mut removed = MessageStream::for_match_rule(rule, connection, None).await?;
    manager
        .subscribe()
        .await
        .or_else(|error| if is(&error, "AlreadySubscribed") { Ok(()) } else { Err(error) })?;
    let job = begin().await?;
    while let Some(signal) = removed.next().await {
        let signal = signal?;
        let body = signal.body();
        let (_, ended, _, result): (u32, ObjectPath<'_>, &str, &str) = body.deserialize()?;
        if ended == *job {
            return match result {
                "done" | "skipped" => Ok(()),
                result => Err(zbus::Error::Failure(format!("its job ended with {result:?}"))),
            };
        }
    }
    Err(zbus::Error::Failure("the connection ended".to_owned()))
}

/// Whether systemd answered with the error of that name.
fn is(error: &zbus::Error, name: &str) -> bool {
    match error {
        zbus::Error::MethodError(error, ..) => error.as_str().rsplit('.').next() == Some(name),
        _ => false,
    }
}

/// systemd's own words where it has said any.
fn said(error: &zbus::Error) -> String {
    match error {
        zbus::Error::MethodError(_, Some(words), _) => words.trim_end_matches('.').to_owned(),
        error => error.to_string(),
    }
}

fn variants(properties: &[Property]) -> Vec<(&str, Variant<'_>)> {
    let variant = |value| match value {
        &Value::Bool(value) => Variant::from(value),
        &Value::I32(value) => Variant::from(value),
        &Value::U32(value) => Variant::from(value),
        &Value::I64(value) => Variant::from(value),
        &Value::U64(value) => Variant::from(value),
        &Value::F64(value) => Variant::from(value),
        Value::Text(text) => Variant::from(text.as_str()),
        Value::Texts(texts) => Variant::from(texts.iter().map(String::as_str).collect::<Vec<_>>()),
        Value::Bytes(bytes) => Variant::from(bytes.as_slice()),
        Value::Numbers(numbers) => Variant::from(numbers.as_slice()),
    };
    properties.iter().map(|property| (property.name.as_str(), variant(&property.value))).collect()
}

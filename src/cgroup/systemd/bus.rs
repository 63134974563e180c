//! What is said to systemd, over the system's bus.
//!
//! ```text
//!  Manager: call ─▶ job ─▶ JobRemoved(job, result)
//! ```

use std::num::NonZeroUsize;

use tokio_stream::StreamExt;
use zbus::{Connection, MessageStream, ObjectPath, OwnedObjectPath, Variant};

use super::PATIENCE;
use super::property::{Property, Value};
use crate::error::{Error, Result};
use crate::sys::is_single_threaded;

/// The signal that tells of a job's end: its number, path, unit and result.
const REMOVED: &str = "type='signal',sender='org.freedesktop.systemd1',\
                       interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// So many ends of others' jobs may come before our answer does: what finds no room would hold that up.
const MANY: usize = 1 << 16;

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
    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
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
        let start = async || manager.start_transient_unit(unit, "fail", &variants(properties), &[]).await;
        match job(&manager, start).await {
            Err(error) if is(&error, "UnitExists") && !is_active(&manager, unit).await? => {
                // What is left of one before: it has failed, or is still being stopped.
                let _ = manager.reset_failed_unit(unit).await;
                stop_unit(&manager, unit).await?;
                job(&manager, start).await
            }
            other => other,
        }
    })
}

/// Whether somebody has `unit` still.
async fn is_active(manager: &ManagerProxy<'_>, unit: &str) -> zbus::Result<bool> {
    let state = property(manager, unit, "Unit", "ActiveState").await?;
    Ok(!matches!(state.as_str(), "" | "inactive" | "failed" | "deactivating"))
}

/// What a unit says of itself in the interface of that kind; empty for one that does not exist.
async fn property(manager: &ManagerProxy<'_>, unit: &str, kind: &str, name: &str) -> zbus::Result<String> {
    let path = match manager.get_unit(unit).await {
        Err(error) if is(&error, "NoSuchUnit") => return Ok(String::new()),
        path => path?,
    };
    let (service, interface) = ("org.freedesktop.systemd1", format!("org.freedesktop.systemd1.{kind}"));
    zbus::Proxy::new(manager.inner().connection(), service, path, interface).await?.get_property(name).await
}

async fn stop_unit(manager: &ManagerProxy<'_>, unit: &str) -> zbus::Result<()> {
    match job(manager, async || manager.stop_unit(unit, "replace").await).await {
        Err(error) if is(&error, "NoSuchUnit") => Ok(()),
        other => other,
    }
}

/// Stops `unit` where its cgroup is `own`, as systemd names it, or gone; returns once it is.
pub(super) fn stop(unit: &str, own: &str) -> Result<()> {
    let what = format!("have systemd stop {unit}");
    ask(&what, async |manager| {
        // Another slice may have a unit of that name, which is somebody else's.
        match property(&manager, unit, "Scope", "ControlGroup").await?.as_str() {
            "" => stop_unit(&manager, unit).await,
            path if path == own => stop_unit(&manager, unit).await,
            _ => Ok(()),
        }
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
            let connection = Connection::system().await?;
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
        // What systemd refuses, it says. All else is the way to it.
        Ok(Err(error @ (zbus::Error::MethodError(..) | zbus::Error::Failure(_)))) => {
            Err(Error::failed(what, said(&error)))
        }
        Ok(Err(error)) => Err(Error::failed(what, error.to_string()).hint(
            "systemd is asked over the system's bus: is the package dbus installed, and dbus.socket up?",
        )),
        Err(_) => Err(Error::failed(what, format!("no answer in {} seconds", PATIENCE.as_secs()))
            .hint("`systemctl status` tells whether systemd itself answers")),
    }
}

/// Does what `begin` calls, and waits for the end of the job it makes.
async fn job(
    manager: &ManagerProxy<'_>,
    begin: impl AsyncFn() -> zbus::Result<OwnedObjectPath>,
) -> zbus::Result<()> {
    // In this order: a job may end before its number is known here.
    let connection = manager.inner().connection();
    let mut removed = MessageStream::for_match_rule(REMOVED, connection, NonZeroUsize::new(MANY)).await?;
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

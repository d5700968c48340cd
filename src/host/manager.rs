//! The client of the service `io.coracle1`: sends a request of a user without the rights of root, and converts
//! its errors to those of the command line.

use super::systemd::bus;
use crate::ask::{Ask, OptionValue, Output};
use crate::error::{Context, Error, ErrorName, Result};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::collections::HashMap;
use zbus::proxy::{CacheProperties, MethodFlags};
use zbus::{Fd, OwnedObjectPath, Proxy, Variant};

pub(crate) use zbus::Connection;
pub(crate) use zbus::OwnedObjectPath as JobPath;

/// The name of the service.
const SERVICE: &str = "io.coracle1";
/// The number of instances of the service that may end during one job.
const INSTANCES: u32 = 8;
/// The path of its manager.
const MANAGER: &str = "/io/coracle1";

/// The reply to a request.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A started job, and the descriptors of its streams.
    Job(OwnedObjectPath, Vec<OwnedFd>),
    /// A document.
    Document(String),
}

/// The end of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobEnd {
    /// The exit status; -1 if it is not known.
    pub(crate) status: i32,
    /// The errors of a failed job.
    pub(crate) errors: Vec<Error>,
    /// The output of a successful one.
    pub(crate) output: String,
}

/// Sends a request. `is_interactive` lets polkit ask the user.
///
/// # Errors
/// There is no service, or it refuses.
pub(crate) async fn call(connection: &Connection, ask: &Ask, is_interactive: bool) -> Result<Reply> {
    let names: Vec<&str> = ask.machines.iter().map(crate::machine::name::Name::as_str).collect();
    let own_interface = ask.verb.own_interface();
    let of_manager = own_interface.is_some()
        || ask.machines.len() != 1
        || matches!(ask.verb.method(), "Stats" | "Doctor" | "Network" | "Check" | "Define");
    let (path, interface) = match ask.machines.first() {
        Some(name) if !of_manager => {
            (format!("{MANAGER}/machine/{}", bus::label(name.as_str())), "io.coracle1.Machine")
        }
        _ => (MANAGER.to_owned(), own_interface.unwrap_or("io.coracle1.Manager")),
    };
    let proxy = proxy(connection, &path, interface).await.map_err(|error| refusal(ask, error))?;
    let caller = Caller { proxy: &proxy, ask, source: open_source(ask)?, is_interactive };
    let replied = caller.call(of_manager, &names).await;
    match replied {
        Err(error) if !of_manager && is_unknown_object(&error) => {
            // The manager names the reason, or finds a new machine.
            let manager = self::proxy(connection, MANAGER, "io.coracle1.Manager").await;
            let manager = manager.map_err(|error| refusal(ask, error))?;
            let found: zbus::Result<OwnedObjectPath> = manager.call("GetMachine", &(names[0],)).await;
            found.map_err(|error| refusal(ask, error))?;
            caller.call(of_manager, &names).await.map_err(|error| refusal(ask, error))
        }
        replied => replied.map_err(|error| refusal(ask, error)),
    }
}

/// A request to an object.
struct Caller<'a> {
    proxy: &'a Proxy<'a>,
    ask: &'a Ask,
    /// The source of a bind mount.
    source: Option<OwnedFd>,
    is_interactive: bool,
}

impl Caller<'_> {
    async fn call(&self, of_manager: bool, names: &[&str]) -> zbus::Result<Reply> {
        let options: HashMap<&str, Variant<'_>> =
            self.ask.options.iter().map(|(key, value)| (key, variant(value))).collect();
        let has_streams = !matches!(self.ask.verb.output(), Output::Report | Output::Document);
        let words = self.ask.command.as_slice();
        match (self.ask.verb.method(), words) {
            ("Define", [text]) => return self.job(&(names[0], text, options)).await,
            ("CopyTo", [_, destination]) => return self.streams(&(destination, options)).await,
            ("CopyFrom", [source, _]) => return self.streams(&(source, options)).await,
            ("Bind", [_, target]) => {
                let source = self.source.as_ref().ok_or(zbus::Error::UnknownFd)?;
                return self.job(&(Fd::from(source.as_fd()), target, options)).await;
            }
            ("Unbind", targets) => return self.job(&(targets,)).await,
            ("Set", changes) => return self.document(&(changes, options)).await,
            ("Apply", _) => return self.document(&(options,)).await,
            ("Import", [_, name]) | ("Export" | "Update", [name, _]) => {
                return self.streams(&(name, options)).await;
            }
            ("Create", [name]) => return self.job(&(name, options)).await,
            ("Remove" | "Verify", images) => return self.job(&(images, options)).await,
            ("Prune", _) => return self.job(&(options,)).await,
            ("Run", [session, command @ ..]) => return self.streams(&(session, command, options)).await,
            ("Shell", [session]) => return self.streams(&(session, options)).await,
            ("Begin" | "Recover", [one]) => return self.job(&(one, options)).await,
            ("End", sessions) => return self.job(&(sessions, options)).await,
            ("Clean", _) => return self.job(&(options,)).await,
            (_, [image, rest @ ..]) if self.ask.verb.own_interface().is_some() => {
                let second = rest.first().map_or("", String::as_str);
                return self.job(&(image, second, options)).await;
            }
            _ => {}
        }
        match (self.ask.verb.method(), of_manager) {
            ("Network", _) => self.document(&()).await,
            (_, true) if self.ask.verb.output() == Output::Document => self.document(&(names,)).await,
            (_, false) if self.ask.verb.output() == Output::Document => self.document(&()).await,
            (_, true) => self.job(&(names, options)).await,
            ("Enable" | "Disable", _) => self.job(&(self.ask.options.flag("now"),)).await,
            ("Kill", _) => {
                let signal = self.ask.options.number("signal").and_then(|number| i32::try_from(number).ok());
                let whom = self.ask.options.text("whom").unwrap_or("all");
                self.job(&(signal.unwrap_or(libc::SIGTERM), whom)).await
            }
            ("Exec", _) => self.streams(&(&self.ask.command, options)).await,
            _ if has_streams => self.streams(&(options,)).await,
            _ => self.job(&(options,)).await,
        }
    }

    async fn send<B, R>(&self, body: &B) -> zbus::Result<R>
    where
        B: serde::Serialize + zbus::DynamicType,
        R: for<'d> zbus::wire::DynamicDeserialize<'d>,
    {
        let none = MethodFlags::empty();
        let flags = if self.is_interactive { MethodFlags::ALLOW_INTERACTIVE_AUTH } else { none };
        let reply = self.proxy.call_with_flags(self.ask.verb.method(), flags, body).await?;
        reply.ok_or(zbus::Error::InvalidReply)
    }

    async fn document<B: serde::Serialize + zbus::DynamicType>(&self, body: &B) -> zbus::Result<Reply> {
        Ok(Reply::Document(self.send(body).await?))
    }

    async fn job<B: serde::Serialize + zbus::DynamicType>(&self, body: &B) -> zbus::Result<Reply> {
        Ok(Reply::Job(self.send(body).await?, Vec::new()))
    }

    async fn streams<B: serde::Serialize + zbus::DynamicType>(&self, body: &B) -> zbus::Result<Reply> {
        let (job, descriptors): (OwnedObjectPath, Vec<zbus::OwnedFd>) = self.send(body).await?;
        Ok(Reply::Job(job, descriptors.into_iter().map(OwnedFd::from).collect()))
    }
}

/// Opens the source of a bind mount for reference, as this user.
fn open_source(ask: &Ask) -> Result<Option<OwnedFd>> {
    let ("Bind", [source, _]) = (ask.verb.method(), ask.command.as_slice()) else { return Ok(None) };
    let opened = rustix::fs::open(source.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    opened.map(Some).context(|| format!("cannot find bind source '{source}'"))
}

/// Waits for the end of a job.
///
/// # Errors
/// The service ended meanwhile, and the job too before the next instance found it.
pub(crate) async fn wait(connection: &Connection, job: &OwnedObjectPath) -> Result<JobEnd> {
    let lost = |error| bus::failure(error).context("cannot wait for the job");
    let proxy = proxy(connection, job.as_str(), "io.coracle1.Job").await.map_err(lost)?;
    let mut instances = 0;
    let (result, status, message, hint): (String, i32, String, String) = loop {
        match proxy.call("Wait", &()).await {
            // It was upgraded, for example: the next one has its running jobs.
            Err(error) if is_ended(&error) && instances < INSTANCES => instances += 1,
            Err(error) if instances > 0 && is_unknown_object(&error) => {
                let error = Error::new("the service ended before the job, and its result is not known");
                return Err(error.with_hint("see 'journalctl SYSLOG_IDENTIFIER=coracle'"));
            }
            replied => break replied.map_err(lost)?,
        }
    };
    if result == "done" {
        return Ok(JobEnd { status, errors: Vec::new(), output: message });
    }
    // An older service does not tell.
    let name = proxy.get_property::<String>("Error").await.unwrap_or_default();
    let of_job =
        |message| Error::new(message).named(named(&name)).of_status(u8::try_from(status).unwrap_or(1));
    let hints = hint.lines().chain(std::iter::repeat(""));
    let errors = message.lines().zip(hints).map(|(message, hint)| with_hint(of_job(message), hint));
    Ok(JobEnd { status, errors: errors.collect(), output: String::new() })
}

/// Stops a job.
///
/// # Errors
/// The job has ended.
pub(crate) async fn cancel(connection: &Connection, job: &OwnedObjectPath) -> Result<()> {
    let proxy = proxy(connection, job.as_str(), "io.coracle1.Job").await.map_err(bus::failure)?;
    proxy.call("Cancel", &()).await.map_err(bus::failure)
}

/// Sends a signal to a job.
///
/// # Errors
/// The job has ended.
pub(crate) async fn signal(connection: &Connection, job: &OwnedObjectPath, signal: i32) -> Result<()> {
    let proxy = proxy(connection, job.as_str(), "io.coracle1.Job").await.map_err(bus::failure)?;
    proxy.call("Signal", &(signal,)).await.map_err(bus::failure)
}

async fn proxy<'a>(connection: &Connection, path: &'a str, interface: &'a str) -> zbus::Result<Proxy<'a>> {
    let builder = zbus::proxy::Builder::new(connection);
    builder
        .destination(SERVICE)
        .path(path)
        .interface(interface)
        .cache_properties(CacheProperties::No)
        .build()
        .await
}

fn variant(value: &OptionValue) -> Variant<'_> {
    match value {
        OptionValue::Flag(flag) => Variant::from(*flag),
        OptionValue::Number(number) => Variant::from(*number),
        OptionValue::Text(text) => Variant::from(text.as_str()),
        OptionValue::Texts(texts) => Variant::from(texts.iter().map(String::as_str).collect::<Vec<_>>()),
    }
}

/// Returns whether the service ended before its reply.
fn is_ended(error: &zbus::Error) -> bool {
    bus::error_name(error).is_some_and(|name| name.ends_with(".NoReply"))
}

fn is_unknown_object(error: &zbus::Error) -> bool {
    let unknown = ["UnknownObject", "UnknownInterface", "UnknownMethod"];
    bus::error_name(error).is_some_and(|name| unknown.iter().any(|suffix| name.ends_with(suffix)))
}

/// Converts an error reply: the message is the first line, the hint the second.
fn refusal(ask: &Ask, error: zbus::Error) -> Error {
    let name = bus::error_name(&error).unwrap_or_default();
    // The bus does not know the service, or systemd does not start it.
    let is_absent = [".ServiceUnknown", ".NameHasNoOwner"].iter().any(|absent| name.ends_with(absent))
        || ["org.freedesktop.DBus.Error.Spawn.", "org.freedesktop.systemd1."]
            .iter()
            .any(|prefix| name.starts_with(prefix));
    if is_absent || name.is_empty() {
        return needs_root(ask);
    }
    let Some(text) = bus::error_text(&error) else { return bus::failure(error) };
    let mut lines = text.lines();
    let error = match named(&name) {
        ErrorName::BadArgument => Error::usage(lines.next().unwrap_or_default()),
        name => Error::new(lines.next().unwrap_or_default()).named(name),
    };
    with_hint(error, lines.next().unwrap_or_default())
}

/// Returns the name of an error on the bus.
fn named(name: &str) -> ErrorName {
    let named = [
        ErrorName::NoSuchMachine,
        ErrorName::NotRunning,
        ErrorName::BadDefinition,
        ErrorName::BadArgument,
        ErrorName::Changed,
        ErrorName::LimitsExceeded,
        ErrorName::Unsupported,
    ];
    named.into_iter().find(|one| one.on_bus() == name).unwrap_or_default()
}

/// Returns the error of a host without the service.
pub(crate) fn needs_root(ask: &Ask) -> Error {
    let noun = ask.verb.noun();
    let what = if ask.machines.is_empty() { "this host".to_owned() } else { format!("{noun}s") };
    Error::new(format!("{} {what} needs root", ask.verb.doing()))
        .with_hint("run it with sudo(8), or install polkitd")
}

fn with_hint(error: Error, hint: &str) -> Error {
    if hint.is_empty() { error } else { error.with_hint(hint) }
}

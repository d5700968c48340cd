//! The jobs of the service: transient units, each an object on the bus until a minute after its end. A
//! restarted service finds the running ones by their units.

use super::authority::{Caller, departure};
use super::quota::{Permit, Resource};
use super::refusal::Refusal;
use super::report::{ReportedError, errors_of, read_document, read_report};
use super::status_text::progress;
use super::streams::Streams;
use super::{Service, description, lock, object_path, signals, words};
use crate::ask::{Ask, Output};
use crate::error::{Context, Error, ErrorName, Result};
use crate::host::systemd::units::transient::{self, TransientService, UnitEnd, UnitWatch};
use crate::sys::terminal;
use futures_util::FutureExt;
use futures_util::future::{Either, join3, select};
use rustix::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedObjectPath, interface};

/// The slice of jobs.
const SLICE: &str = "coracle-jobs.slice";
/// The start of the names of their units.
const PREFIX: &str = "coracle-job-";
/// The time that a job stays an object after its end.
const KEPT: Duration = Duration::from_secs(60);

/// The end of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// `done`, `failed` or `cancelled`.
    result: &'static str,
    /// The exit status; -1 if it is not known.
    status: i32,
    /// The errors, none after a success.
    errors: Vec<ReportedError>,
    /// The output of the verb.
    pub(super) document: String,
}

/// A job.
#[derive(Debug)]
pub(super) struct JobState {
    id: u64,
    uid: u32,
    verb: String,
    machines: Vec<String>,
    unit: String,
    /// Whether the call that started it returns its output.
    is_document: bool,
    is_cancelled: AtomicBool,
    status: Mutex<String>,
    terminal: Mutex<Option<OwnedFd>>,
    outcome: watch::Sender<Option<Outcome>>,
}

/// The object of a job.
pub(super) struct Job {
    service: Arc<Service>,
    state: Arc<JobState>,
}

/// Starts a job, with a standard input that the caller passes. Returns it with the descriptors for the caller.
///
/// # Errors
/// The caller has too many jobs, or systemd refuses.
pub(super) async fn start(
    service: &Arc<Service>,
    caller: &Caller,
    ask: &Ask,
    input: Option<OwnedFd>,
    expected: Vec<String>,
) -> Result<(Arc<JobState>, Vec<OwnedFd>)> {
    let connection = service.connection()?;
    let permit = service.quota.take(caller.uid, Resource::Job)?;
    let mut streams = Streams::of(ask, input)?;
    let id = service.next();
    let machines: Vec<String> = ask.machines.iter().map(ToString::to_string).collect();
    let unit = format!("{PREFIX}{}-{id}.service", caller.uid);
    let mut command = command(caller, ask, expected.into_iter(), streams.report.is_some());
    // A job with a report has no status for its caller.
    let result =
        streams.reporter.take().map_or_else(|| duplicate(streams.done.as_ref()), |own| Ok(Some(own)))?;
    let is_handed_over = ask.verb.has_private_words() || result.is_some();
    if let Some(stdin) = streams.job[0].take_if(|_| is_handed_over) {
        streams.job[0] = Some(words::hand_over(&command, stdin, result)?);
        command = [words::VERB, ask.verb.as_str()].map(str::to_owned).into();
        command.extend(machines.iter().cloned());
    }
    command.insert(0, transient::own_program()?);
    // Whoever has streams of the job is its only reader: `logs -f` of a quiet machine would never end.
    let sender = (!streams.caller.is_empty()).then(|| caller.sender.clone());
    let fields = machines.iter().map(|name| format!("CORACLE_MACHINE={name}"));
    let service_unit = TransientService {
        name: unit.clone(),
        description: description::write(ask.verb.as_str(), &machines, sender.as_deref()),
        slice: SLICE.to_owned(),
        command,
        environment: vec![
            "LANG=C.UTF-8".to_owned(),
            format!("TERM={}", ask.options.text("term").unwrap_or("dumb")),
        ],
        log_fields: fields
            .chain([format!("CORACLE_CALLER={}", caller.uid), format!("CORACLE_VERB={}", ask.verb.as_str())])
            .collect(),
        streams: std::mem::take(&mut streams.job),
    };
    let watch = transient::start(connection, service_unit).await?;
    let state = Arc::new(JobState {
        id,
        uid: caller.uid,
        verb: ask.verb.as_str().to_owned(),
        machines,
        unit,
        is_document: ask.verb.output() == Output::Document,
        is_cancelled: AtomicBool::new(false),
        status: Mutex::default(),
        terminal: Mutex::new(streams.terminal.take()),
        outcome: watch::Sender::new(None),
    });
    publish(service, &state).await?;
    let descriptors = std::mem::take(&mut streams.caller);
    tokio::spawn(follow(Arc::clone(service), Arc::clone(&state), watch, streams, sender, permit));
    Ok((state, descriptors))
}

/// Returns the words of a job after the name of the program.
fn command(
    caller: &Caller,
    ask: &Ask,
    expected: impl Iterator<Item = String>,
    has_report: bool,
) -> Vec<String> {
    let mut command = ask.words();
    let option = ask.verb.option_for_users().filter(|_| caller.uid != 0);
    let behind_verb = ask.verb.words().len();
    command.splice(behind_verb..behind_verb, option.map(str::to_owned));
    // After the verb, which this program then parses without the definition of its command line.
    command.splice(1..1, expected.chain(has_report.then(|| "--report".to_owned())));
    command
}

/// Returns another descriptor of a pipe.
fn duplicate(pipe: Option<&OwnedFd>) -> Result<Option<OwnedFd>> {
    pipe.map(OwnedFd::try_clone).transpose().context(|| "cannot duplicate a descriptor")
}

/// Takes over the running jobs of an earlier instance. Their results are their exit statuses.
///
/// # Errors
/// systemd does not reply.
pub(super) async fn adopt(service: &Arc<Service>) -> Result<()> {
    let connection = service.connection()?;
    for (unit, description) in transient::running(connection, &format!("{PREFIX}*.service")).await? {
        let id = unit.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(".service"));
        let Some((uid, id)) = id.and_then(|id| id.split_once('-')) else { continue };
        let (Ok(uid), Ok(id)) = (uid.parse(), id.parse()) else { continue };
        let (verb, machines, sender) = description::read(&description);
        let state = Arc::new(JobState {
            id,
            uid,
            verb,
            machines,
            unit,
            is_document: false,
            is_cancelled: AtomicBool::new(false),
            status: Mutex::default(),
            terminal: Mutex::default(),
            outcome: watch::Sender::new(None),
        });
        publish(service, &state).await?;
        let watch = UnitWatch::new(connection, &state.unit).await?;
        // They count; but a limit ends no job.
        let own = service.quota.take(uid, Resource::Job);
        let permit = own.or_else(|_| service.quota.take(0, Resource::Job))?;
        tokio::spawn(follow(Arc::clone(service), state, watch, Streams::default(), sender, permit));
    }
    Ok(())
}

/// Adds the object of a job.
async fn publish(service: &Arc<Service>, state: &Arc<JobState>) -> Result<()> {
    lock(&service.jobs).insert(state.id, Arc::clone(state));
    let object = Job { service: Arc::clone(service), state: Arc::clone(state) };
    let added = service.connection()?.object_server().at(state.path()?, object).await;
    if added.is_err() {
        lock(&service.jobs).remove(&state.id);
    }
    added.map(|_| ()).map_err(crate::host::systemd::bus::failure)
}

/// Waits for the end of a job, tells everybody, and removes it later.
async fn follow(
    service: Arc<Service>,
    state: Arc<JobState>,
    watch: UnitWatch,
    streams: Streams,
    sender: Option<String>,
    permit: Permit,
) {
    let Ok(connection) = service.connection() else { return };
    let mut progress = |text: &str| text.clone_into(&mut lock(&state.status));
    let end = with_caller(connection, &state, sender, watch.end(&mut progress));
    let (report, document) = (read_report(streams.report), read_document(streams.document));
    let (end, report, document) = join3(end, report, document).await;
    let end = end.unwrap_or(UnitEnd::Unknown);
    let outcome = outcome(&state, end, report, document);
    *lock(&state.terminal) = None;
    // All other statuses are written by the job itself.
    if let (Some(done), UnitEnd::Killed(_)) = (streams.done, end) {
        // The caller may have closed its end.
        let _ = rustix::io::write(&done, format!("{}\n", outcome.status).as_bytes());
    }
    state.outcome.send_replace(Some(outcome.clone()));
    if let Err(error) = super::watch::sync(&service).await {
        log::warn!("{error}, ignoring");
    }
    if let Ok(path) = state.path() {
        let emitter = SignalEmitter::from_parts(connection.clone(), path.clone().into_inner());
        let _ = Job::finished(&emitter, outcome.result, outcome.status).await;
        drop(permit);
        // The call itself returns a document, and nobody else knows the job.
        if !state.is_document {
            tokio::time::sleep(KEPT).await;
        }
        let _ = connection.object_server().remove::<Job, _>(path).await;
    }
    lock(&service.jobs).remove(&state.id);
}

/// Waits for the end of a job whose caller has its streams. When the caller leaves, the job is hung up, as by
/// the end of a terminal.
async fn with_caller(
    connection: &Connection,
    state: &JobState,
    sender: Option<String>,
    end: impl Future<Output = Result<UnitEnd>>,
) -> Result<UnitEnd> {
    let Some(sender) = sender else { return end.await };
    let leaving = pin!(departure(connection, &sender).boxed());
    match select(pin!(end), leaving).await {
        Either::Left((end, _)) => end,
        Either::Right(((), end)) => {
            // It fails if the job has ended meanwhile.
            let _ = transient::signal(connection, &state.unit, libc::SIGHUP).await;
            end.await
        }
    }
}

fn outcome(state: &JobState, end: UnitEnd, report: Option<Vec<u8>>, document: Option<Vec<u8>>) -> Outcome {
    let is_cancelled = state.is_cancelled.load(Ordering::Relaxed);
    let status = match end {
        UnitEnd::Exited(status) => i32::from(status),
        UnitEnd::Killed(signal) => 128 + i32::from(signal),
        UnitEnd::Unknown => -1,
    };
    let mut errors = errors_of(report);
    let failure = |message: &str| ReportedError {
        name: ErrorName::Failed,
        message: message.to_owned(),
        hint: format!("see 'journalctl -u {}'", state.unit),
    };
    if document.is_none() {
        errors.push(failure("the document is too large"));
    }
    if errors.is_empty() && status != 0 {
        errors.push(match is_cancelled {
            true => ReportedError { hint: String::new(), ..failure("it was cancelled") },
            false => failure("the job failed"),
        });
    }
    let result = match status {
        _ if is_cancelled => "cancelled",
        0 if document.is_some() => "done",
        _ => "failed",
    };
    let document = String::from_utf8_lossy(&document.unwrap_or_default()).into_owned();
    Outcome { result, status, errors, document }
}

impl Outcome {
    /// Returns the document of a successful job.
    ///
    /// # Errors
    /// The errors of the job. The status alone may be a judgement.
    pub(super) fn into_document(self, judges: bool) -> std::result::Result<String, Refusal> {
        if self.status == 0 || judges && self.status == 1 && !self.document.is_empty() {
            return Ok(self.document);
        }
        let error = self.errors.first();
        let name = error.map_or(ErrorName::Failed, |error| error.name);
        Err(Refusal::of(name, &self.lines(|error| &error.message), &self.lines(|error| &error.hint)))
    }

    /// Joins a part of all errors, a line each.
    fn lines(&self, part: impl Fn(&ReportedError) -> &str) -> String {
        let lines: Vec<String> = self.errors.iter().map(|error| part(error).replace('\n', " ")).collect();
        lines.join("\n")
    }
}

impl JobState {
    /// Returns its object path.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn path(&self) -> Result<OwnedObjectPath> {
        object_path("job", &self.id.to_string())
    }

    /// Waits for its end.
    pub(super) async fn wait(&self) -> Outcome {
        let mut ends = self.outcome.subscribe();
        let end = ends.wait_for(Option::is_some).await;
        let end = end.ok().and_then(|end| end.clone());
        end.unwrap_or(Outcome { result: "failed", status: -1, errors: Vec::new(), document: String::new() })
    }
}

impl Job {
    /// Refuses other users than the job's own and root.
    async fn admit(&self, header: &Header<'_>) -> std::result::Result<Permit, Refusal> {
        let (caller, call) = self.service.admit(header).await?;
        if caller.uid != 0 && caller.uid != self.state.uid {
            return Err(Refusal::denied(&Error::new("the job belongs to another user")));
        }
        Ok(call)
    }
}

#[interface(name = "io.coracle1.Job", introspection_docs = false)]
impl Job {
    #[zbus(out_args("result", "status", "message", "hint"))]
    async fn wait(
        &self,
        #[zbus(header)] header: Header<'_>,
    ) -> std::result::Result<(String, i32, String, String), Refusal> {
        let _call = self.admit(&header).await?;
        let end = self.state.wait().await;
        let message =
            if end.errors.is_empty() { end.document.clone() } else { end.lines(|error| &error.message) };
        Ok((end.result.to_owned(), end.status, message, end.lines(|error| &error.hint)))
    }

    async fn cancel(&self, #[zbus(header)] header: Header<'_>) -> std::result::Result<(), Refusal> {
        let _call = self.admit(&header).await?;
        self.state.is_cancelled.store(true, Ordering::Relaxed);
        Ok(transient::stop(self.service.connection()?, &self.state.unit).await?)
    }

    async fn signal(
        &self,
        #[zbus(header)] header: Header<'_>,
        number: i32,
    ) -> std::result::Result<(), Refusal> {
        let _call = self.admit(&header).await?;
        if !signals::is_passed(&self.state.verb, number) {
            let error =
                Error::new(format!("signal {number} is not passed to a job of '{}'", self.state.verb));
            return Err(error.named(ErrorName::BadArgument).into());
        }
        Ok(transient::signal(self.service.connection()?, &self.state.unit, number).await?)
    }

    async fn resize(
        &self,
        #[zbus(header)] header: Header<'_>,
        rows: u16,
        columns: u16,
    ) -> std::result::Result<(), Refusal> {
        let _call = self.admit(&header).await?;
        match lock(&self.state.terminal).as_ref() {
            Some(end) => terminal::set_size(end.as_fd(), rows, columns),
            None => {
                let error = Error::new("the job has no terminal").named(ErrorName::Unsupported);
                return Err(error.into());
            }
        }
        Ok(transient::signal(self.service.connection()?, &self.state.unit, libc::SIGWINCH).await?)
    }

    #[zbus(signal)]
    async fn finished(emitter: &SignalEmitter<'_>, result: &str, status: i32) -> zbus::Result<()>;

    #[zbus(property(emits_changed_signal = "const"))]
    fn verb(&self) -> String {
        self.state.verb.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn machines(&self) -> Vec<String> {
        self.state.machines.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn user(&self) -> u32 {
        self.state.uid
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn unit(&self) -> String {
        self.state.unit.clone()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn state(&self) -> String {
        self.state.outcome.borrow().as_ref().map_or("running", |end| end.result).to_owned()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn error(&self) -> String {
        let end = self.state.outcome.borrow();
        let error = end.as_ref().and_then(|end| end.errors.first());
        error.map(|error| error.name.on_bus()).unwrap_or_default().to_owned()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn progress(&self) -> f64 {
        progress(&lock(&self.state.status)).map_or(-1.0, |(percent, _)| f64::from(percent) / 100.0)
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn status(&self) -> String {
        let status = lock(&self.state.status).clone();
        progress(&status).map_or(status.clone(), |(_, text)| text.to_owned())
    }
}

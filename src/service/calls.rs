//! A call from its bounds to its answer: caller, quota, polkit, job. Used by the manager and machine objects.

use super::authority::{self, Caller};
use super::job::{self, JobState};
use super::quota::{Permit, Resource};
use super::refusal::Refusal;
use super::{Service, object_path};
use crate::ask::{Ask, AskVerb, OptionValue, Options};
use crate::config;
use crate::error::{Error, ErrorName};
use crate::machine::name::Name;
use crate::state::record::Record;
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::sync::Arc;
use zbus::message::Header;
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

/// The result of a method.
pub(super) type Result<T> = std::result::Result<T, Refusal>;
/// Options as they come over the bus, `a{sv}`.
pub(super) type RawOptions = HashMap<String, OwnedVariant>;

/// The greatest size of a call, bytes: more than all bounds of a request together.
const BODY: u32 = 512 << 10;
/// The greatest number of descriptors of a call: only `Bind` takes one. The bus lets 16 through, and the
/// descriptors of a refused call are closed at once.
const DESCRIPTORS: u32 = 1;

/// A call before it is checked.
#[derive(Debug)]
pub(super) struct Call {
    /// The verb.
    pub(super) verb: AskVerb,
    /// The machines.
    pub(super) machines: Vec<Name>,
    /// The options.
    pub(super) options: RawOptions,
    /// The words after the machines, as of [`Ask`].
    pub(super) command: Vec<String>,
    /// The standard input that the caller passes.
    pub(super) input: Option<OwnedFd>,
}

impl Call {
    /// Creates a call without options.
    pub(super) fn new(verb: AskVerb, machines: Vec<Name>) -> Self {
        Self { verb, machines, options: HashMap::new(), command: Vec::new(), input: None }
    }

    /// Adds options.
    pub(super) fn with(self, options: RawOptions) -> Self {
        Self { options, ..self }
    }

    /// Adds the words after the machines.
    pub(super) fn with_words(self, command: Vec<String>) -> Self {
        Self { command, ..self }
    }

    /// Adds an option.
    pub(super) fn with_one(mut self, key: &str, value: OwnedVariant) -> Self {
        self.options.insert(key.to_owned(), value);
        self
    }
}

impl Service {
    /// Starts the job of a call, if it is allowed. Returns its path, and the descriptors for the caller.
    ///
    /// # Errors
    /// An argument out of bounds, a limit, or a missing right.
    pub(super) async fn act(
        self: &Arc<Self>,
        header: &Header<'_>,
        call: Call,
    ) -> Result<(OwnedObjectPath, Vec<zbus::OwnedFd>)> {
        let (job, descriptors) = self.begin(header, call).await?;
        Ok((job.path()?, descriptors.into_iter().map(zbus::OwnedFd::from).collect()))
    }

    /// Runs the job of a call, and returns what it prints.
    ///
    /// # Errors
    /// As for [`Self::act`], and the errors of the job.
    pub(super) async fn document(self: &Arc<Self>, header: &Header<'_>, call: Call) -> Result<String> {
        let judges = call.verb.judges();
        let (job, _) = self.begin(header, call).await?;
        job.wait().await.into_document(judges)
    }

    async fn begin(
        self: &Arc<Self>,
        header: &Header<'_>,
        call: Call,
    ) -> Result<(Arc<JobState>, Vec<OwnedFd>)> {
        let ask = Ask::new(call.verb, call.machines, options(call.options)?, call.command)?;
        let (caller, _call) = self.admit(header).await?;
        // Of missing machines polkit is not asked: no rule is about them.
        if !ask.verb.creates() {
            ask.machines.iter().try_for_each(|name| self.require(name))?;
        }
        let expected = authority::allow(self, &caller, &ask).await?;
        Ok(job::start(self, &caller, &ask, call.input, expected).await?)
    }

    /// Returns the caller of a method, with one of its calls.
    ///
    /// # Errors
    /// The call is too large or has too many descriptors, the connection or its user have too many, or it has left the bus.
    pub(super) async fn admit(&self, header: &Header<'_>) -> Result<(Caller, Permit)> {
        if header.primary().body_len() > BODY {
            let error = Error::new(format!("the call has more than {} KiB", BODY >> 10));
            return Err(error.named(ErrorName::BadArgument).into());
        }
        if header.unix_fds().is_some_and(|count| count > DESCRIPTORS) {
            let error = Error::new(format!("the call has more than {DESCRIPTORS} descriptor"));
            return Err(error.named(ErrorName::BadArgument).into());
        }
        let sender = header.sender().map(ToString::to_string).unwrap_or_default();
        let _arrival = self.arrivals.take(&sender)?;
        let caller = Caller::of(self.connection()?, header).await?;
        let call = self.quota.take(caller.uid, Resource::Call)?;
        Ok((caller, call))
    }

    /// Returns whether a call has no answer yet.
    pub(super) fn has_calls(&self) -> bool {
        !self.arrivals.is_empty() || self.quota.has_calls()
    }

    /// Refuses a machine that neither runs nor exists.
    ///
    /// # Errors
    /// Such a machine.
    pub(super) fn require(&self, name: &Name) -> Result<()> {
        let is_known = Record::is_written(&self.paths, name) || config::exists(&self.paths, name);
        if is_known { Ok(()) } else { Err(config::missing(&self.paths, name).into()) }
    }
}

/// Returns names of machines.
///
/// # Errors
/// An invalid name, or no name.
pub(super) fn names(words: &[String]) -> Result<Vec<Name>> {
    let bad = |error: Error| Refusal::from(error.named(ErrorName::BadArgument));
    if words.is_empty() {
        return Err(bad(Error::new("no machine is named")));
    }
    words.iter().map(|word| Name::new(word).map_err(bad)).collect()
}

/// Returns the path of a machine's object.
///
/// # Errors
/// None in practice.
pub(super) fn machine_path(name: &Name) -> crate::error::Result<OwnedObjectPath> {
    object_path("machine", name.as_str())
}

/// Converts options to the types that the verbs have.
fn options(raw: RawOptions) -> Result<Options> {
    let mut sorted: Vec<(String, OwnedVariant)> = raw.into_iter().collect();
    sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut options = Options::default();
    for (key, value) in sorted {
        let value = self::value(&value).ok_or_else(|| {
            let text = format!("option '{}' has another type", key.escape_debug());
            Refusal::from(Error::new(text).named(ErrorName::BadArgument))
        })?;
        options = options.with(&key, value);
    }
    Ok(options)
}

fn value(value: &Variant<'_>) -> Option<OptionValue> {
    Some(match value {
        Variant::Bool(flag) => OptionValue::Flag(*flag),
        Variant::Str(text) => OptionValue::Text(text.as_str().to_owned()),
        Variant::U16(number) => OptionValue::Number(u32::from(*number)),
        Variant::U32(number) => OptionValue::Number(*number),
        Variant::I32(number) => OptionValue::Number(u32::try_from(*number).ok()?),
        Variant::Array(_) => OptionValue::Texts(Vec::<String>::try_from(value.try_clone().ok()?).ok()?),
        _ => return None,
    })
}

//! The caller, and the decision of polkit(8). The subject is the caller's name on the bus; no polkit is a no, and
//! no yes is remembered.

use super::Service;
use super::quota::Resource;
use super::refusal::Refusal;
use crate::ask::{Action, Ask, AskVerb, SessionDetails};
use crate::config;
use crate::error::{Error, ErrorName, Result};
use crate::host::polkit::{self, Answer, Question};
use crate::host::systemd::bus;
use crate::host::systemd::journal::printable_line;
use crate::machine::name::Name;
use crate::state::record::Record;
use futures_util::future::{Either, select};
use futures_util::{FutureExt, StreamExt};
use std::pin::pin;
use zbus::message::{Flags, Header, Type};
use zbus::names::BusName;
use zbus::{Connection, MatchRule, MessageStream};

/// A caller.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// Its unique name on the bus.
    pub(super) sender: String,
    /// Its user, as the bus knows it.
    pub(super) uid: u32,
    /// Whether it waits for the user to authenticate.
    pub(super) is_interactive: bool,
}

impl Caller {
    /// Returns the sender of a call.
    ///
    /// # Errors
    /// It has left the bus.
    pub(super) async fn of(connection: &Connection, header: &Header<'_>) -> Result<Self> {
        let unknown = || Error::new("the caller has left the bus");
        let sender = header.sender().ok_or_else(unknown)?;
        let proxy = zbus::fdo::DBusProxy::new(connection).await.map_err(bus::failure)?;
        let uid = proxy.get_connection_unix_user(BusName::from(sender.to_owned())).await;
        Ok(Self {
            sender: sender.to_string(),
            uid: uid.map_err(|_| unknown())?,
            is_interactive: header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH),
        })
    }
}

/// Waits until a client has left the bus: for ever if that cannot be watched.
pub(super) async fn departure(connection: &Connection, sender: &str) {
    if let Err(error) = leaves(connection, sender).await {
        log::warn!("cannot wait for the end of a client: {error}, ignoring");
        std::future::pending::<()>().await;
    }
}

async fn leaves(connection: &Connection, sender: &str) -> zbus::Result<()> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender("org.freedesktop.DBus")
        .interface("org.freedesktop.DBus")
        .member("NameOwnerChanged")
        .arg(0, sender)
        .build()?;
    let mut changes = MessageStream::for_match_rule(rule, connection, None).await?;
    // It may have left before the subscription.
    let proxy = zbus::fdo::DBusProxy::new(connection).await?;
    if proxy.name_has_owner(BusName::try_from(sender)?).await? {
        changes.next().await;
    }
    Ok(())
}

/// A machine of a request as it was when the question was asked.
#[derive(Debug)]
struct Target<'a> {
    name: Option<&'a Name>,
    record: Option<Record>,
    /// The process id and start time of the supervisor in its record, also of one that has ended.
    supervisor: Option<(u32, u64)>,
    /// The details of a session, also of a dead one.
    session: Option<SessionDetails>,
}

/// Asks polkit about each machine of a request, or about the host. Returns the words for the job that name the
/// machines meant, each with its supervisor.
///
/// # Errors
/// A machine is not allowed.
pub(super) async fn allow(
    service: &Service,
    caller: &Caller,
    ask: &Ask,
) -> std::result::Result<Vec<String>, Refusal> {
    let mut targets = Vec::new();
    for name in &ask.machines {
        let record = Record::read(&service.paths, name)?;
        let supervisor = record.as_ref().map(|record| (record.supervisor, record.supervisor_start));
        let session = record.as_ref().and_then(session);
        let record = record.filter(Record::is_alive);
        // A job about a session names the missing one itself.
        if record.is_none() && ask.verb.enters() && ask.verb.own_interface().is_none() {
            // The answer would hold for whatever takes the name until the job reads it.
            let error = Error::new(format!("machine '{name}' is not running"));
            return Err(error.named(ErrorName::NotRunning).into());
        }
        targets.push(Target { name: Some(name), record, supervisor, session });
    }
    if targets.is_empty() {
        targets.push(Target { name: None, record: None, supervisor: None, session: None });
    }
    let is_free = caller.uid == 0 || ask.verb.is_public();
    for target in targets.iter().filter(|_| !is_free) {
        question(service, caller, ask, target).await?;
    }
    Ok(targets.iter().filter_map(|target| target.expected(ask.verb)).collect())
}

impl Target<'_> {
    /// Returns the word for the job that names the machine meant. A machine that does not run must not run
    /// when the job reads its record, unless the job itself starts it.
    fn expected(&self, verb: AskVerb) -> Option<String> {
        let starts = matches!(verb, AskVerb::Start | AskVerb::Restart | AskVerb::Enable);
        let is_bound = self.record.is_some() || !starts && !verb.is_public();
        // No process has the number 0.
        let (supervisor, start) = is_bound.then(|| self.supervisor.unwrap_or_default())?;
        Some(format!("--expect={}:{supervisor}:{start}", self.name?))
    }
}

/// Asks about one machine.
async fn question(
    service: &Service,
    caller: &Caller,
    ask: &Ask,
    target: &Target<'_>,
) -> std::result::Result<(), Refusal> {
    let connection = service.connection()?;
    let unconfined = target.record.as_ref().map(|record| unconfined(service, record));
    let unconfined = unconfined.as_deref().unwrap_or(UNKNOWN);
    let details = ask.details(target.name, unconfined, target.session.as_ref());
    let action = action(ask.verb, unconfined);
    let asked = Question { sender: &caller.sender, action: action.id(), details: &details };
    let what = describe(ask, target.name);
    let denied = |error: Error| Refusal::denied(&with_cure(error, ask, action));
    match polkit::check(connection, &asked, None).await {
        Ok(Answer::Yes) => return Ok(()),
        Ok(Answer::No) => return Err(denied(Error::new(format!("{what} is not allowed to you")))),
        Ok(Answer::Challenge) if caller.is_interactive => {}
        Ok(Answer::Challenge) => {
            let error = with_cure(Error::new(format!("{what} requires authentication")), ask, action);
            return Err(Refusal::authentication_required(&error));
        }
        Err(error) => {
            log::info!("{error}");
            let error = Error::new(format!("{what} needs root"));
            return Err(Refusal::denied(&error.with_hint("run it with sudo(8), or install polkitd")));
        }
    }
    let _dialog = service.quota.take(caller.uid, Resource::Dialog)?;
    let cancellation = format!("coracle-{}", service.next());
    let answer = pin!(polkit::check(connection, &asked, Some(&cancellation)));
    let leaving = pin!(departure(connection, &caller.sender).boxed());
    match select(answer, leaving).await {
        Either::Left((Ok(Answer::Yes), _)) => Ok(()),
        Either::Left((answer, _)) => {
            answer.err().into_iter().for_each(|error| log::info!("{error}"));
            Err(denied(Error::new(format!("{what} is not allowed to you"))))
        }
        Either::Right(((), _)) => {
            polkit::cancel(connection, &cancellation).await;
            Err(denied(Error::new("the caller has left the bus")))
        }
    }
}

/// The word for the openings of a machine that does not run.
const UNKNOWN: &str = "unknown";
/// The word for no opening.
const NOTHING: &str = "nothing";

/// Returns the action of a verb on a machine with these openings. A session that reaches the host is worth more than
/// sessions of users are.
fn action(verb: AskVerb, unconfined: &str) -> Action {
    match verb {
        // The job of a dead session runs nothing.
        AskVerb::SessionRun | AskVerb::SessionShell if ![NOTHING, UNKNOWN].contains(&unconfined) => {
            Action::Enter
        }
        _ => verb.action(),
    }
}

/// Returns the details of a session. `None` for all other machines.
fn session(record: &Record) -> Option<SessionDetails> {
    let build = record.build.as_ref()?;
    let image = config::image_name(&record.root).map(|name| name.to_string());
    let image = image.unwrap_or_else(|| record.root.display().to_string());
    Some(SessionDetails { image, user: build.user.clone() })
}

/// Returns the words of a machine for polkit's rules, or `nothing`. Trees that the service cannot see count as
/// reachable: it has a `/tmp` of its own. So do the files of a user who has begun a session with sudo(8).
fn unconfined(service: &Service, record: &Record) -> String {
    let mut words = record.unconfined_now(&service.paths);
    let is_of_sudo = record.build.as_ref().is_some_and(|build| build.caller.0 != 0);
    if is_of_sudo && !words.iter().any(|word| word == "binds") {
        words.push("binds".to_owned());
    }
    let is_hidden = record.owned_trees.iter().any(|tree| std::fs::symlink_metadata(tree).is_err());
    if is_hidden && !words.iter().any(|word| word == "tree") {
        words.push("tree".to_owned());
    }
    if words.is_empty() { NOTHING.to_owned() } else { words.join(" ") }
}

fn describe(ask: &Ask, machine: Option<&Name>) -> String {
    match machine {
        Some(name) => format!("{} {} '{name}'", ask.verb.doing(), ask.verb.noun()),
        None => format!("{} this host", ask.verb.doing()),
    }
}

fn with_cure(error: Error, ask: &Ask, action: Action) -> Error {
    let machines: String = match ask.verb.own_interface() {
        Some(_) if !ask.verb.enters() => {
            ask.command.iter().map(|word| format!(" {}", printable_line(word.as_bytes()))).collect()
        }
        _ => ask.machines.iter().map(|name| format!(" {name}")).collect(),
    };
    error.with_hint(format!(
        "as an administrator: 'sudo coracle {}{machines}'; or a polkit rule for {}, see io.coracle1(5)",
        ask.verb.as_str().replace("build-", "build "),
        action.id()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_open_sessions_are_entries() {
        for verb in [AskVerb::SessionRun, AskVerb::SessionShell] {
            for (words, expected) in
                [(NOTHING, Action::Build), (UNKNOWN, Action::Build), ("binds tree", Action::Enter)]
            {
                assert_eq!(action(verb, words), expected, "{words}");
            }
        }
        assert_eq!(action(AskVerb::SessionEnd, "users"), Action::Build);
    }

    #[test]
    fn a_machine_that_does_not_run_must_not_run_later() {
        let name = Name::new("web").unwrap();
        let target = |supervisor| Target { name: Some(&name), record: None, supervisor, session: None };
        let expected = |verb, supervisor| target(supervisor).expected(verb);
        assert_eq!(expected(AskVerb::Logs, None).as_deref(), Some("--expect=web:0:0"));
        assert_eq!(expected(AskVerb::Stop, Some((7, 99))).as_deref(), Some("--expect=web:7:99"));
        for verb in [AskVerb::Start, AskVerb::Restart, AskVerb::Enable, AskVerb::Stats] {
            assert_eq!(expected(verb, Some((7, 99))), None, "{verb:?}");
        }
    }
}

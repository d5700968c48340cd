//! The service `io.coracle1` on the system bus: machines and jobs as objects, for users, tools and desktops.
//! It decides, by polkit(8), and systemd executes: each call that acts becomes a transient unit that runs this
//! program's own verb. So the service needs no capability, writes no file, and its end ends no job. Called by
//! `main`; described in io.coracle1(5). It must not call the verbs of `control`, which block.

mod arrivals;
mod authority;
mod calls;
mod description;
mod images;
mod job;
mod life;
mod machine;
mod manager;
mod quota;
mod refusal;
mod report;
mod session;
mod signals;
mod snapshot;
mod status_text;
mod streams;
mod watch;
mod words;

use crate::error::{Context, Error, Result};
use crate::host::runtime::runtime;
use crate::host::systemd::bus;
use crate::machine::name::Name;
use crate::paths::Paths;
pub use report::report;
pub use words::{VERB as JOB_VERB, receive as receive_words};

use arrivals::Arrivals;
use images::Images;
use job::JobState;
use manager::{Manager, Subscriber};
use quota::Quota;
use session::Session;
use snapshot::Snapshot;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use zbus::{Connection, OwnedObjectPath};

/// The verb that runs the service, in `units/coracle-manager.service`.
pub const VERB: &str = "manager";
/// The name on the bus.
const BUS_NAME: &str = "io.coracle1";
/// The path of the manager object.
const MANAGER_PATH: &str = "/io/coracle1";

/// The state of the service, shared by all objects.
pub(super) struct Service {
    paths: Paths,
    connection: OnceLock<Connection>,
    arrivals: Arc<Arrivals>,
    quota: Arc<Quota>,
    jobs: Mutex<BTreeMap<u64, Arc<JobState>>>,
    machines: Mutex<BTreeMap<Name, Arc<Mutex<Snapshot>>>>,
    /// Held while objects of machines are added and removed.
    syncing: tokio::sync::Mutex<()>,
    /// The clients that wait for signals, by their names on the bus.
    subscribers: Mutex<HashMap<String, Subscriber>>,
    next: AtomicU64,
}

/// Serves the bus until nobody has needed the service for a while.
///
/// # Errors
/// There is no system bus, or the name is taken.
pub fn run(paths: &Paths) -> Result<()> {
    let service = Arc::new(Service {
        paths: paths.clone(),
        connection: OnceLock::new(),
        arrivals: Arc::default(),
        quota: Arc::default(),
        jobs: Mutex::default(),
        machines: Mutex::default(),
        syncing: tokio::sync::Mutex::default(),
        subscribers: Mutex::default(),
        // Names of jobs are unique also after a restart of the service.
        next: AtomicU64::new(clock()),
    });
    runtime()?.block_on(serve(service))
}

/// Serves the objects, then takes the name: the first call meets all of them.
async fn serve(service: Arc<Service>) -> Result<()> {
    let refused = |error| bus::failure(error).context("cannot serve the system bus");
    let termination = life::Termination::new()?;
    let connection = zbus::connection::Builder::system()
        .serve_at(MANAGER_PATH, zbus::fdo::ObjectManager)
        .serve_at(MANAGER_PATH, Manager(Arc::clone(&service)))
        .serve_at(MANAGER_PATH, Images(Arc::clone(&service)))
        .serve_at(MANAGER_PATH, Session(Arc::clone(&service)))
        .build()
        .await
        .map_err(refused)?;
    let _ = service.connection.set(connection.clone());
    // Without the objects of machines the service still acts.
    if let Err(error) = watch::sync(&service).await {
        log::warn!("{error}, ignoring");
    }
    job::adopt(&service).await?;
    tokio::spawn(watch::run(Arc::clone(&service)));
    connection.request_name(BUS_NAME).await.map_err(refused)?;
    life::notify(sd_notify::NotifyState::Ready)?;
    life::until_idle(&service, &connection, &termination).await;
    life::leave(&service, &connection).await
}

impl Service {
    /// Returns the connection to the bus.
    fn connection(&self) -> Result<&Connection> {
        self.connection.get().ok_or_else(|| Error::new("the service is not connected"))
    }

    /// Returns a number that no other job has.
    fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// Locks a mutex. A panic ends the program, so none is poisoned.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the path of an object below the manager's.
fn object_path(kind: &str, name: &str) -> Result<OwnedObjectPath> {
    let path = format!("{MANAGER_PATH}/{kind}/{}", bus::label(name));
    OwnedObjectPath::try_from(path).map_err(bus::failure).context(|| format!("cannot name '{name}'"))
}

/// Returns the milliseconds since the epoch.
fn clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}

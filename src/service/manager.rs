//! The manager object: what concerns several machines or the host.

use super::authority::departure;
use super::calls::{Call, RawOptions, Result, machine_path, names};
use super::quota::{Permit, Resource};
use super::{Service, lock, watch};
use crate::ask::AskVerb;
use std::sync::Arc;
use tokio::task::AbortHandle;
use zbus::message::Header;
use zbus::{OwnedObjectPath, interface};

/// The object.
pub(super) struct Manager(pub(super) Arc<Service>);

/// A client that waits for signals.
pub(super) struct Subscriber {
    _permit: Permit,
    /// Waits for the end of the client.
    task: AbortHandle,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The features of the interface beyond its first version, and of this host.
const FEATURES: [&str; 6] = ["exec", "terminal", "copy", "configure", "images", "session"];

impl Manager {
    async fn act(
        &self,
        header: &Header<'_>,
        verb: AskVerb,
        machines: &[String],
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        let call = Call::new(verb, names(machines)?).with(options);
        self.0.act(header, call).await.map(|(job, _)| job)
    }

    /// Returns the document about some machines, or about all.
    async fn document(&self, header: &Header<'_>, verb: AskVerb, machines: &[String]) -> Result<String> {
        let machines = if machines.is_empty() { Vec::new() } else { names(machines)? };
        self.0.document(header, Call::new(verb, machines)).await
    }
}

#[interface(name = "io.coracle1.Manager", introspection_docs = false)]
impl Manager {
    #[zbus(out_args("machine"))]
    async fn get_machine(&self, #[zbus(header)] header: Header<'_>, name: String) -> Result<OwnedObjectPath> {
        let names = names(&[name])?;
        let _admitted = self.0.admit(&header).await?;
        names.iter().try_for_each(|name| self.0.require(name))?;
        watch::sync(&self.0).await?;
        Ok(machine_path(&names[0])?)
    }

    #[zbus(out_args("job"))]
    async fn start(
        &self,
        #[zbus(header)] header: Header<'_>,
        machines: Vec<String>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Start, &machines, options).await
    }

    #[zbus(out_args("job"))]
    async fn stop(
        &self,
        #[zbus(header)] header: Header<'_>,
        machines: Vec<String>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Stop, &machines, options).await
    }

    #[zbus(out_args("job"))]
    async fn restart(
        &self,
        #[zbus(header)] header: Header<'_>,
        machines: Vec<String>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Restart, &machines, options).await
    }

    #[zbus(out_args("samples"))]
    async fn stats(&self, #[zbus(header)] header: Header<'_>, machines: Vec<String>) -> Result<String> {
        self.document(&header, AskVerb::Stats, &machines).await
    }

    #[zbus(out_args("network"))]
    async fn network(&self, #[zbus(header)] header: Header<'_>) -> Result<String> {
        self.document(&header, AskVerb::Network, &[]).await
    }

    #[zbus(out_args("findings"))]
    async fn doctor(&self, #[zbus(header)] header: Header<'_>, machines: Vec<String>) -> Result<String> {
        self.document(&header, AskVerb::Doctor, &machines).await
    }

    #[zbus(out_args("problems"))]
    async fn check(
        &self,
        #[zbus(header)] header: Header<'_>,
        machine: String,
        definition: String,
    ) -> Result<String> {
        let call = Call::new(AskVerb::Check, names(&[machine])?).with_words(vec![definition]);
        self.0.document(&header, call).await
    }

    #[zbus(out_args("job"))]
    async fn define(
        &self,
        #[zbus(header)] header: Header<'_>,
        machine: String,
        definition: String,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        let call = Call::new(AskVerb::Define, names(&[machine])?).with(options).with_words(vec![definition]);
        self.0.act(&header, call).await.map(|(job, _)| job)
    }

    async fn subscribe(&self, #[zbus(header)] header: Header<'_>) -> Result<()> {
        let (caller, _call) = self.0.admit(&header).await?;
        if lock(&self.0.subscribers).contains_key(&caller.sender) {
            return Ok(());
        }
        let permit = self.0.quota.take(caller.uid, Resource::Subscription)?;
        let (service, connection) = (Arc::clone(&self.0), self.0.connection()?.clone());
        let sender = caller.sender.clone();
        let task = tokio::spawn(async move {
            departure(&connection, &sender).await;
            lock(&service.subscribers).remove(&sender);
        });
        let subscriber = Subscriber { _permit: permit, task: task.abort_handle() };
        lock(&self.0.subscribers).insert(caller.sender, subscriber);
        Ok(())
    }

    async fn unsubscribe(&self, #[zbus(header)] header: Header<'_>) -> Result<()> {
        if let Some(sender) = header.sender() {
            lock(&self.0.subscribers).remove(sender.as_str());
        }
        Ok(())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn features(&self) -> Vec<String> {
        FEATURES.map(str::to_owned).into()
    }
}

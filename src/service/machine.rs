//! The object of a machine: its properties, and the verbs on it.

use super::calls::{Call, RawOptions, Result};
use super::snapshot::Snapshot;
use super::{Service, lock};
use crate::ask::AskVerb;
use crate::machine::name::Name;
use std::sync::{Arc, Mutex};
use zbus::message::Header;
use zbus::{OwnedFd, OwnedObjectPath, OwnedVariant, interface};

/// The object.
pub(super) struct Machine {
    pub(super) service: Arc<Service>,
    pub(super) name: Name,
    pub(super) shown: Arc<Mutex<Snapshot>>,
}

/// The word for standard input or output of a job.
const STANDARD: &str = "-";

/// A job and its descriptors. Methods of the interface name its parts: an alias would be one value of a structure.
type JobWithStreams = (OwnedObjectPath, Vec<OwnedFd>);

impl Machine {
    async fn act(&self, header: &Header<'_>, verb: AskVerb, options: RawOptions) -> Result<OwnedObjectPath> {
        self.streams(header, verb, options).await.map(|(job, _)| job)
    }

    async fn streams(
        &self,
        header: &Header<'_>,
        verb: AskVerb,
        options: RawOptions,
    ) -> Result<JobWithStreams> {
        self.service.act(header, Call::new(verb, vec![self.name.clone()]).with(options)).await
    }

    async fn document(&self, header: &Header<'_>, verb: AskVerb) -> Result<String> {
        self.service.document(header, Call::new(verb, vec![self.name.clone()])).await
    }

    fn call(&self, verb: AskVerb, words: Vec<String>, options: RawOptions) -> Call {
        Call::new(verb, vec![self.name.clone()]).with(options).with_words(words)
    }

    fn shown<T>(&self, property: impl FnOnce(&Snapshot) -> T) -> T {
        property(&lock(&self.shown))
    }
}

#[interface(name = "io.coracle1.Machine", introspection_docs = false)]
impl Machine {
    #[zbus(out_args("job"))]
    async fn start(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Start, options).await
    }

    #[zbus(out_args("job"))]
    async fn stop(&self, #[zbus(header)] header: Header<'_>, options: RawOptions) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Stop, options).await
    }

    #[zbus(out_args("job"))]
    async fn restart(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Restart, options).await
    }

    #[zbus(out_args("job"))]
    async fn poweroff(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Poweroff, options).await
    }

    #[zbus(out_args("job"))]
    async fn reboot(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Reboot, options).await
    }

    #[zbus(out_args("job"))]
    async fn terminate(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Terminate, options).await
    }

    #[zbus(out_args("job"))]
    async fn freeze(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Freeze, options).await
    }

    #[zbus(out_args("job"))]
    async fn thaw(&self, #[zbus(header)] header: Header<'_>, options: RawOptions) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Thaw, options).await
    }

    #[zbus(out_args("job"))]
    async fn enable(&self, #[zbus(header)] header: Header<'_>, now: bool) -> Result<OwnedObjectPath> {
        let options = RawOptions::from([("now".to_owned(), OwnedVariant::from(now))]);
        self.act(&header, AskVerb::Enable, options).await
    }

    #[zbus(out_args("job"))]
    async fn disable(&self, #[zbus(header)] header: Header<'_>, now: bool) -> Result<OwnedObjectPath> {
        let options = RawOptions::from([("now".to_owned(), OwnedVariant::from(now))]);
        self.act(&header, AskVerb::Disable, options).await
    }

    #[zbus(out_args("job"))]
    async fn kill(
        &self,
        #[zbus(header)] header: Header<'_>,
        signal: i32,
        whom: String,
    ) -> Result<OwnedObjectPath> {
        let call = Call::new(AskVerb::Kill, vec![self.name.clone()])
            .with_one("signal", OwnedVariant::from(signal))
            .with_one("whom", OwnedVariant::from(zbus::Str::from(whom)));
        self.service.act(&header, call).await.map(|(job, _)| job)
    }

    #[zbus(out_args("job", "descriptors"))]
    async fn exec(
        &self,
        #[zbus(header)] header: Header<'_>,
        command: Vec<String>,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, Vec<OwnedFd>)> {
        self.service.act(&header, self.call(AskVerb::Exec, command, options)).await
    }

    #[zbus(out_args("job", "descriptors"))]
    async fn shell(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, Vec<OwnedFd>)> {
        self.streams(&header, AskVerb::Shell, options).await
    }

    #[zbus(out_args("job", "descriptors"))]
    async fn login(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, Vec<OwnedFd>)> {
        self.streams(&header, AskVerb::Login, options).await
    }

    #[zbus(out_args("job", "descriptors"))]
    async fn attach(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, Vec<OwnedFd>)> {
        self.streams(&header, AskVerb::Attach, options).await
    }

    #[zbus(out_args("job", "descriptors"))]
    async fn logs(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, Vec<OwnedFd>)> {
        self.streams(&header, AskVerb::Logs, options).await
    }

    #[zbus(out_args("job", "descriptors"))]
    async fn copy_to(
        &self,
        #[zbus(header)] header: Header<'_>,
        destination: String,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, Vec<OwnedFd>)> {
        let words = vec![STANDARD.to_owned(), destination];
        self.service.act(&header, self.call(AskVerb::CopyTo, words, options)).await
    }

    #[zbus(out_args("job", "descriptors"))]
    async fn copy_from(
        &self,
        #[zbus(header)] header: Header<'_>,
        source: String,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, Vec<OwnedFd>)> {
        let words = vec![source, STANDARD.to_owned()];
        self.service.act(&header, self.call(AskVerb::CopyFrom, words, options)).await
    }

    #[zbus(out_args("job"))]
    async fn bind(
        &self,
        #[zbus(header)] header: Header<'_>,
        source: OwnedFd,
        target: String,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        let words = vec![STANDARD.to_owned(), target];
        let call = Call { input: Some(source.into()), ..self.call(AskVerb::Bind, words, options) };
        self.service.act(&header, call).await.map(|(job, _)| job)
    }

    #[zbus(out_args("job"))]
    async fn unbind(
        &self,
        #[zbus(header)] header: Header<'_>,
        targets: Vec<String>,
    ) -> Result<OwnedObjectPath> {
        let call = self.call(AskVerb::Unbind, targets, RawOptions::new());
        self.service.act(&header, call).await.map(|(job, _)| job)
    }

    #[zbus(out_args("applied"))]
    async fn set(
        &self,
        #[zbus(header)] header: Header<'_>,
        changes: Vec<String>,
        options: RawOptions,
    ) -> Result<String> {
        self.service.document(&header, self.call(AskVerb::Set, changes, options)).await
    }

    #[zbus(out_args("applied"))]
    async fn apply(&self, #[zbus(header)] header: Header<'_>, options: RawOptions) -> Result<String> {
        self.service.document(&header, self.call(AskVerb::Apply, Vec::new(), options)).await
    }

    #[zbus(out_args("properties"))]
    async fn describe(&self, #[zbus(header)] header: Header<'_>) -> Result<String> {
        self.document(&header, AskVerb::Describe).await
    }

    #[zbus(out_args("inspection"))]
    async fn inspect(&self, #[zbus(header)] header: Header<'_>) -> Result<String> {
        self.document(&header, AskVerb::Inspect).await
    }

    #[zbus(out_args("settings"))]
    async fn config(&self, #[zbus(header)] header: Header<'_>) -> Result<String> {
        self.document(&header, AskVerb::Config).await
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.name.to_string()
    }

    #[zbus(property)]
    fn state(&self) -> String {
        self.shown(|shown| shown.state.clone())
    }

    #[zbus(property)]
    fn init(&self) -> String {
        self.shown(|shown| shown.init.clone())
    }

    #[zbus(property)]
    fn unit(&self) -> String {
        self.shown(|shown| shown.unit.clone())
    }

    #[zbus(property)]
    fn leader(&self) -> u32 {
        self.shown(|shown| shown.leader)
    }

    #[zbus(property, name = "LeaderPIDFDId")]
    fn leader_pidfd_id(&self) -> u64 {
        self.shown(|shown| shown.leader_pidfd_id)
    }

    #[zbus(property)]
    fn addresses(&self) -> Vec<String> {
        self.shown(|shown| shown.addresses.clone())
    }

    #[zbus(property)]
    fn host_interface(&self) -> String {
        self.shown(|shown| shown.host_interface.clone())
    }

    #[zbus(property)]
    fn zone(&self) -> String {
        self.shown(|shown| shown.zone.clone())
    }

    #[zbus(property)]
    fn ports(&self) -> Vec<String> {
        self.shown(|shown| shown.ports.clone())
    }

    #[zbus(property)]
    fn started(&self) -> u64 {
        self.shown(|shown| shown.started)
    }

    #[zbus(property)]
    fn defined(&self) -> bool {
        self.shown(|shown| shown.defined)
    }

    #[zbus(property)]
    fn root(&self) -> String {
        self.shown(|shown| shown.root.clone())
    }

    #[zbus(property)]
    fn unconfined(&self) -> Vec<String> {
        self.shown(|shown| shown.unconfined.clone())
    }

    #[zbus(property)]
    fn waits(&self) -> String {
        self.shown(|shown| shown.waits.clone())
    }
}

//! The interface of build sessions at the manager's object. Files of the host are not bound, and the job of a user
//! refuses a definition that opens a session to the host: who may use sessions has no right over other files.

use super::Service;
use super::calls::{Call, RawOptions, Result, names};
use crate::ask::AskVerb;
use std::sync::Arc;
use zbus::message::Header;
use zbus::{OwnedFd, OwnedObjectPath, interface};

/// The object.
pub(super) struct Session(pub(super) Arc<Service>);

impl Session {
    /// Starts the job of a verb about some sessions, or about the image of a new one.
    async fn streams(
        &self,
        header: &Header<'_>,
        verb: AskVerb,
        sessions: &[String],
        words: Vec<String>,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, Vec<OwnedFd>)> {
        let sessions = if verb == AskVerb::SessionClean { Vec::new() } else { names(sessions)? };
        self.0.act(header, Call::new(verb, sessions).with(options).with_words(words)).await
    }

    async fn act(
        &self,
        header: &Header<'_>,
        verb: AskVerb,
        sessions: Vec<String>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.streams(header, verb, &sessions.clone(), sessions, options).await.map(|(job, _)| job)
    }
}

#[interface(name = "io.coracle1.Session", introspection_docs = false)]
impl Session {
    #[zbus(out_args("job"))]
    async fn begin(
        &self,
        #[zbus(header)] header: Header<'_>,
        image: String,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::SessionBegin, vec![image], options).await
    }

    #[zbus(out_args("job", "descriptors"))]
    async fn run(
        &self,
        #[zbus(header)] header: Header<'_>,
        session: String,
        command: Vec<String>,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, Vec<OwnedFd>)> {
        let words = [session.clone()].into_iter().chain(command).collect();
        self.streams(&header, AskVerb::SessionRun, &[session], words, options).await
    }

    #[zbus(out_args("job", "descriptors"))]
    async fn shell(
        &self,
        #[zbus(header)] header: Header<'_>,
        session: String,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, Vec<OwnedFd>)> {
        self.streams(
            &header,
            AskVerb::SessionShell,
            std::slice::from_ref(&session),
            vec![session.clone()],
            options,
        )
        .await
    }

    #[zbus(out_args("job"))]
    async fn end(
        &self,
        #[zbus(header)] header: Header<'_>,
        sessions: Vec<String>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::SessionEnd, sessions, options).await
    }

    #[zbus(out_args("job"))]
    async fn commit(
        &self,
        #[zbus(header)] header: Header<'_>,
        session: String,
        image: String,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        let image = Some(image).filter(|image| !image.is_empty());
        let words = [session.clone()].into_iter().chain(image).collect();
        let started = self.streams(&header, AskVerb::SessionCommit, &[session], words, options).await;
        started.map(|(job, _)| job)
    }

    #[zbus(out_args("job"))]
    async fn recover(
        &self,
        #[zbus(header)] header: Header<'_>,
        session: String,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::SessionRecover, vec![session], options).await
    }

    #[zbus(out_args("job"))]
    async fn clean(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::SessionClean, Vec::new(), options).await
    }
}

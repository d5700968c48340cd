//! The interface of images at the manager's object. Their streams are pipes: no path of a caller is opened.

use super::Service;
use super::calls::{Call, RawOptions, Result, names};
use crate::ask::AskVerb;
use crate::machine::name::Name;
use std::sync::Arc;
use zbus::message::Header;
use zbus::{OwnedFd, OwnedObjectPath, interface};

/// The object.
pub(super) struct Images(pub(super) Arc<Service>);

/// The word for standard input or output of a job.
const STANDARD: &str = "-";

impl Images {
    async fn act(
        &self,
        header: &Header<'_>,
        verb: AskVerb,
        words: Vec<String>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.streams(header, verb, words, options).await.map(|(job, _)| job)
    }

    /// Starts the job of a verb about the image of the first word that is a name.
    async fn streams(
        &self,
        header: &Header<'_>,
        verb: AskVerb,
        words: Vec<String>,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, Vec<OwnedFd>)> {
        let images = match verb {
            AskVerb::Prune => Vec::new(),
            AskVerb::Remove | AskVerb::Verify => names(&words)?,
            AskVerb::Import | AskVerb::Pull => image(words.get(1))?,
            _ => image(words.first())?,
        };
        self.0.act(header, Call::new(verb, images).with(options).with_words(words)).await
    }
}

/// Returns the image of `NAME` or `NAME@TAG`.
fn image(word: Option<&String>) -> Result<Vec<Name>> {
    let word = word.map(String::as_str).unwrap_or_default();
    names(&[word.split_once('@').map_or(word, |(name, _)| name).to_owned()])
}

/// Returns two words; an empty second one stands for none.
fn pair(first: String, second: String) -> Vec<String> {
    [first].into_iter().chain(Some(second).filter(|second| !second.is_empty())).collect()
}

#[interface(name = "io.coracle1.Images", introspection_docs = false)]
impl Images {
    #[zbus(out_args("job"))]
    async fn snapshot(
        &self,
        #[zbus(header)] header: Header<'_>,
        image: String,
        tag: String,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Snapshot, pair(image, tag), options).await
    }

    #[zbus(out_args("job"))]
    async fn remove_snapshot(
        &self,
        #[zbus(header)] header: Header<'_>,
        image: String,
        tag: String,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::RemoveSnapshot, vec![image, tag], options).await
    }

    #[zbus(out_args("job"))]
    async fn rollback(
        &self,
        #[zbus(header)] header: Header<'_>,
        image: String,
        tag: String,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Rollback, pair(image, tag), options).await
    }

    #[zbus(out_args("job"))]
    async fn clone(
        &self,
        #[zbus(header)] header: Header<'_>,
        source: String,
        name: String,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Clone, vec![source, name], options).await
    }

    #[zbus(out_args("job"))]
    async fn rename(
        &self,
        #[zbus(header)] header: Header<'_>,
        image: String,
        name: String,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Rename, vec![image, name], options).await
    }

    #[zbus(out_args("job"))]
    async fn remove(
        &self,
        #[zbus(header)] header: Header<'_>,
        images: Vec<String>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Remove, images, options).await
    }

    #[zbus(out_args("job"))]
    async fn read_only(
        &self,
        #[zbus(header)] header: Header<'_>,
        image: String,
        value: String,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::ReadOnly, vec![image, value], options).await
    }

    #[zbus(out_args("job"))]
    async fn convert(
        &self,
        #[zbus(header)] header: Header<'_>,
        image: String,
        kind: String,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Convert, vec![image, kind], options).await
    }

    #[zbus(out_args("job", "descriptors"))]
    async fn import(
        &self,
        #[zbus(header)] header: Header<'_>,
        name: String,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, Vec<OwnedFd>)> {
        self.streams(&header, AskVerb::Import, vec![STANDARD.to_owned(), name], options).await
    }

    #[zbus(out_args("job", "descriptors"))]
    async fn export(
        &self,
        #[zbus(header)] header: Header<'_>,
        source: String,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, Vec<OwnedFd>)> {
        self.streams(&header, AskVerb::Export, vec![source, STANDARD.to_owned()], options).await
    }

    #[zbus(out_args("job", "descriptors"))]
    async fn update(
        &self,
        #[zbus(header)] header: Header<'_>,
        image: String,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, Vec<OwnedFd>)> {
        self.streams(&header, AskVerb::Update, vec![image, STANDARD.to_owned()], options).await
    }

    #[zbus(out_args("job"))]
    async fn create(
        &self,
        #[zbus(header)] header: Header<'_>,
        name: String,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Create, vec![name], options).await
    }

    #[zbus(out_args("job"))]
    async fn pull(
        &self,
        #[zbus(header)] header: Header<'_>,
        reference: String,
        name: String,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Pull, vec![reference, name], options).await
    }

    #[zbus(out_args("job"))]
    async fn verify(
        &self,
        #[zbus(header)] header: Header<'_>,
        images: Vec<String>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Verify, images, options).await
    }

    #[zbus(out_args("job"))]
    async fn prune(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<OwnedObjectPath> {
        self.act(&header, AskVerb::Prune, Vec::new(), options).await
    }
}

//! The configuration of an OCI image (image specification, "Image Configuration"), as it lies beside a stack as
//! `NAME.oci-config`: what its creator wants to be run. It is not trusted. Read by `config`, and by `image` when an
//! image is imported.

use crate::error::{Error, Result};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// The directories of inits.
const INIT_DIRECTORIES: [&str; 6] =
    ["/sbin", "/usr/sbin", "/lib/systemd", "/usr/lib/systemd", "/bin", "/usr/bin"];
/// The programs of inits.
const INITS: [&str; 7] = ["init", "systemd", "openrc-init", "runit-init", "dinit", "s6-linux-init", "finit"];
/// The shells.
const SHELLS: [&str; 7] = ["sh", "bash", "ash", "dash", "zsh", "ksh", "fish"];
/// The init of s6-overlay, which supervises a service and must be PID 1.
const SUPERVISOR: &str = "/init";

/// The configuration of an image.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// The processor, in words of Go.
    pub(crate) architecture: Option<String>,
    /// The system.
    pub(crate) os: Option<String>,
    /// The variant of the processor.
    pub(crate) variant: Option<String>,
    /// The execution parameters.
    #[serde(deserialize_with = "or_default")]
    pub(crate) config: ExecutionConfig,
    /// The layers.
    pub(crate) rootfs: Option<RootFs>,
}

/// The execution parameters of an image.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ExecutionConfig {
    /// `USER`, `UID`, `USER:GROUP` or `UID:GID`.
    #[serde(deserialize_with = "or_default")]
    pub(crate) user: String,
    /// `NAME=VALUE`.
    #[serde(deserialize_with = "or_default")]
    pub(crate) env: Vec<String>,
    /// The first words of the command.
    #[serde(deserialize_with = "or_default")]
    pub(crate) entrypoint: Vec<String>,
    /// The other ones.
    #[serde(deserialize_with = "or_default")]
    pub(crate) cmd: Vec<String>,
    /// The working directory.
    #[serde(deserialize_with = "or_default")]
    pub(crate) working_dir: String,
    /// The signal that ends the command.
    #[serde(deserialize_with = "or_default")]
    pub(crate) stop_signal: String,
    /// The directories of data.
    #[serde(deserialize_with = "or_default")]
    pub(crate) volumes: BTreeMap<String, IgnoredAny>,
    /// `PORT/PROTOCOL`.
    #[serde(deserialize_with = "or_default")]
    pub(crate) exposed_ports: BTreeMap<String, IgnoredAny>,
}

/// The layers of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    /// The digests of the plain layers, the lowest first.
    #[serde(default)]
    pub(crate) diff_ids: Vec<String>,
}

/// The payload of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageCommand {
    /// An init, with these arguments.
    Init(Vec<String>),
    /// Nothing, or a shell that waits for input.
    Shell(Vec<String>),
    /// A program that must be PID 1.
    Supervisor(Vec<String>),
    /// Any other program.
    Program(Vec<String>),
}

/// Programs write null for an empty value.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> std::result::Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

impl ImageConfig {
    /// Parses a configuration.
    ///
    /// # Errors
    /// The first error with its place.
    pub fn parse(text: &[u8]) -> Result<Self> {
        // An array would be read as the values of the first properties.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(Error::new("it is not a JSON object"));
        }
        let mut json = serde_json::Deserializer::from_slice(text);
        let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let shown = format!("{}: {}", error.path(), error.inner());
            Error::new(shown.escape_debug().to_string())
        })?;
        json.end().map_err(|error| Error::new(error.to_string()))?;
        Ok(parsed)
    }

    /// Returns what the image runs.
    pub fn command(&self) -> ImageCommand {
        self.config.command()
    }
}

impl ExecutionConfig {
    /// Returns what the image runs.
    pub fn command(&self) -> ImageCommand {
        let words: Vec<String> = self.entrypoint.iter().chain(&self.cmd).cloned().collect();
        let Some((program, arguments)) = words.split_first() else { return ImageCommand::Shell(words) };
        // The form that Dockerfiles give to a command without brackets.
        if let [option, script] = arguments
            && is_shell(program)
            && option == "-c"
        {
            let mut inner: Vec<String> = script.split_whitespace().map(str::to_owned).collect();
            if inner.first().is_some_and(|word| word == "exec") {
                inner.remove(0);
            }
            return match inner.split_first() {
                Some((program, arguments)) if is_init(program) => ImageCommand::Init(arguments.to_vec()),
                _ => ImageCommand::Program(words),
            };
        }
        if is_init(program) {
            return ImageCommand::Init(arguments.to_vec());
        }
        if program == SUPERVISOR {
            return ImageCommand::Supervisor(words);
        }
        let only_options = arguments.iter().all(|word| matches!(word.as_str(), "-i" | "-l" | "--login"));
        if is_shell(program) && only_options {
            ImageCommand::Shell(words)
        } else {
            ImageCommand::Program(words)
        }
    }
}

fn is_init(program: &str) -> bool {
    let (directory, name) = program.rsplit_once('/').unwrap_or((INIT_DIRECTORIES[0], program));
    INIT_DIRECTORIES.contains(&directory) && INITS.contains(&name)
}

fn is_shell(program: &str) -> bool {
    let (directory, name) = program.rsplit_once('/').unwrap_or(("/bin", program));
    ["/bin", "/usr/bin", "/usr/local/bin"].contains(&directory) && SHELLS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(entrypoint: &[&str], cmd: &[&str]) -> ImageCommand {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let config = ExecutionConfig { entrypoint: words(entrypoint), cmd: words(cmd), ..Default::default() };
        config.command()
    }

    #[test]
    fn inits_shells_and_programs_are_told_apart() {
        let init = |words: &[&str]| ImageCommand::Init(words.iter().map(|word| (*word).to_owned()).collect());
        assert_eq!(command(&[], &["/sbin/init"]), init(&[]));
        assert_eq!(command(&["/lib/systemd/systemd"], &["--log-level=debug"]), init(&["--log-level=debug"]));
        assert_eq!(command(&[], &["/bin/sh", "-c", "exec /usr/sbin/init 3"]), init(&["3"]));
        for shell in [&[][..], &["bash"], &["/bin/sh"], &["/usr/bin/bash", "-l"]] {
            assert!(matches!(command(shell, &[]), ImageCommand::Shell(_)), "{shell:?}");
        }
        assert!(matches!(command(&["/init"], &["x"]), ImageCommand::Supervisor(_)));
        for program in
            [&["nginx", "-g", "x"][..], &["sh", "-c", "sleep 1"], &["/opt/init"], &["bash", "x.sh"]]
        {
            assert!(matches!(command(program, &[]), ImageCommand::Program(_)), "{program:?}");
        }
    }

    #[test]
    fn null_is_nothing() {
        let text = br#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"Env":["A=b"],"Volumes":{"/data":{}},"User":null}}"#;
        let parsed = ImageConfig::parse(text).unwrap();
        assert_eq!((parsed.config.env.len(), parsed.config.volumes.len()), (1, 1));
        assert_eq!(ImageConfig::parse(br#"{"config":null}"#).unwrap(), ImageConfig::default());
        for text in [&br#"{"config":{"Cmd":"sh"}}"#[..], b"[]", b"", br#"{"config":{"Env":[1]}}"#, b"{} x"] {
            assert!(ImageConfig::parse(text).is_err());
        }
        let error = ImageConfig::parse(br#"{"config":{"Env":["a",1]}}"#).unwrap_err().to_string();
        assert!(error.starts_with("config.Env[1]: "), "{error}");
    }
}

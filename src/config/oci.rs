//! Reads `NAME.oci-config` beside the stack of a machine, the configuration of an OCI image: the lowest source of
//! settings. Called by `sources`. The file is not trusted: it names a command with its environment, directory, user
//! and stop signal, and nothing that raises the rights of the machine.

use super::command::{Argument, Variable};
use super::layer::{Layer, Origin, Setting};
use super::problem::Problem;
use super::profile::Profile;
use super::values::{RawValue, Value};
use crate::error::{Context, Error, Result};
use crate::image::layer_files;
use crate::machine::command::UserIds;
use crate::machine::image_config::{ExecutionConfig, ImageCommand, ImageConfig};
use crate::machine::name::Name;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The maximum size of the file.
const MAX_SIZE: u64 = 8 << 20;

/// The configuration of the image of a machine.
pub(super) struct OciSource {
    path: PathBuf,
    /// The stack beside it.
    stack: PathBuf,
    read: Result<Vec<u8>>,
}

/// Finds the configuration of a machine with this root. Only a stack has one.
pub(super) fn find(root: Option<&Path>, name: &Name) -> Option<OciSource> {
    let stack = root.filter(|root| root.extension().is_some_and(|suffix| suffix == "mstack"))?;
    let path = stack.with_file_name(format!("{name}.oci-config"));
    let read = bytes(&path).transpose()?;
    Some(OciSource { path, stack: stack.to_owned(), read })
}

/// Reads the file. `None` if it does not exist.
fn bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    let reading = || "cannot read the file";
    let mut options = std::fs::OpenOptions::new();
    let file = match options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        opened => opened.context(reading)?,
    };
    if !file.metadata().context(reading)?.is_file() {
        return Err(Error::new("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).context(reading)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(Error::new("the file is larger than 8 MiB"));
    }
    Ok(Some(bytes))
}

/// Merges all other settings over those of the configuration. Returns them with all problems: errors end the start,
/// warnings are ignored properties.
pub(super) fn below(above: Layer, source: OciSource, profile: Profile) -> (Layer, Vec<Problem>) {
    let OciSource { path, stack, read } = source;
    let config = match read.and_then(|text| ImageConfig::parse(&text)) {
        Ok(config) => config.config,
        Err(error) => return (above, vec![Problem::new(Some(&path), &error)]),
    };
    let mut reader = OciReader { path, layer: Layer::default(), problems: Vec::new() };
    let has_init = || layer_files::of_stack(&stack).is_ok_and(|layers| layer_files::has_init(&layers));
    reader.command(&above, config.command(), has_init, profile);
    let boots = [&above, &reader.layer].iter().find_map(|layer| layer.command.boot.value().copied());
    reader.environment(&config);
    if boots != Some(true) {
        reader.process(&above, &config);
    }
    (above.over(reader.layer), reader.problems)
}

/// A walk over one configuration.
struct OciReader {
    path: PathBuf,
    layer: Layer,
    problems: Vec<Problem>,
}

impl OciReader {
    fn origin(&self, pointer: &str) -> Origin {
        Origin::Bundle { path: self.path.clone(), pointer: format!("/config/{pointer}") }
    }

    fn ignore(&mut self, pointer: &str, error: &Error) {
        let error = Error::new(format!("{error}, ignoring"));
        self.problems.push(Problem::at_origin(&self.origin(pointer), &error).into_warning());
    }

    fn set(&mut self, pointer: &str, key: &str, text: &str) {
        let origin = self.origin(pointer);
        let Some(setting) = Setting::find(key) else { return };
        if let Err(error) = self.layer.set(setting, &RawValue::Text(text), origin) {
            self.ignore(pointer, &error);
        }
    }

    /// Sets the command, unless another source has one.
    fn command(
        &mut self,
        above: &Layer,
        command: ImageCommand,
        has_init: impl FnOnce() -> bool,
        profile: Profile,
    ) {
        if above.command.has_command() {
            return;
        }
        let origin = self.origin("Cmd");
        let names_init = above.boot.init.value().is_some();
        let (words, as_pid2) = match command {
            ImageCommand::Init(arguments) => {
                let arguments = arguments.into_iter().map(|word| Argument(word.into()));
                arguments.for_each(|word| self.layer.boot.arguments.push(word, origin.clone()));
                return self.layer.command.boot.set(true, origin);
            }
            _ if names_init => return self.layer.command.boot.set(true, origin),
            ImageCommand::Shell(_) if has_init() => return self.layer.command.boot.set(true, origin),
            ImageCommand::Shell(_) if profile == Profile::Unit => {
                let name = self.path.file_stem().unwrap_or_default().display();
                let error =
                    Error::new("the image has no init, and no command but a shell").with_hint(format!(
                        "run it with 'coracle run -M {name}', or choose a command: Boot= and Parameters= in \
                     '/etc/systemd/nspawn/{name}.nspawn'"
                    ));
                return self.problems.push(Problem::at_origin(&origin, &error));
            }
            ImageCommand::Shell(words) if words.is_empty() => (vec!["/bin/sh".to_owned()], true),
            ImageCommand::Shell(words) | ImageCommand::Program(words) => (words, true),
            ImageCommand::Supervisor(words) => (words, false),
        };
        for word in &words {
            match Argument::read(&RawValue::Text(word)) {
                Ok(word) => self.layer.command.command.push(word, origin.clone()),
                Err(error) => return self.problems.push(Problem::at_origin(&origin, &error)),
            }
        }
        self.layer.command.boot.set(false, origin.clone());
        self.layer.command.as_pid2.set(as_pid2, origin);
    }

    fn environment(&mut self, config: &ExecutionConfig) {
        for (at, text) in config.env.iter().enumerate() {
            let pointer = format!("Env/{at}");
            match Variable::read(&RawValue::Text(text)) {
                Ok(variable) => {
                    let origin = self.origin(&pointer);
                    self.layer.command.environment.push(variable, origin);
                }
                Err(error) => self.ignore(&pointer, &error),
            }
        }
    }

    /// Sets the directory, the user and the stop signal of a command.
    fn process(&mut self, above: &Layer, config: &ExecutionConfig) {
        if !matches!(config.working_dir.as_str(), "" | "/") {
            self.set("WorkingDir", "chdir", &config.working_dir);
        }
        if !config.stop_signal.is_empty() {
            self.set("StopSignal", "boot.stop-signal", &config.stop_signal);
        }
        let has_user = above.command.user.value().is_some() || above.command.ids.value().is_some();
        if !has_user && !matches!(config.user.as_str(), "" | "root" | "0" | "0:0" | "root:root") {
            self.user(&config.user);
        }
    }

    fn user(&mut self, text: &str) {
        let origin = self.origin("User");
        let id = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
        match text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group))) {
            (user, None) => self.set("User", "user", user),
            (user, Some(group)) => match (id(user), id(group)) {
                (Some(uid), Some(gid)) => {
                    self.layer.command.ids.set(UserIds { uid, gid, groups: Vec::new() }, origin);
                }
                _ => {
                    self.set("User", "user", user);
                    self.ignore("User", &Error::new("the group is that of the user"));
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Returns the settings of a configuration under these settings, and the problems.
    fn read(config: &str, above: Layer, profile: Profile, has_init: bool) -> (Layer, Vec<Problem>) {
        let directory = tempfile::tempdir().unwrap();
        let stack = directory.path().join("web.mstack");
        fs::create_dir_all(stack.join("layer@0/usr/sbin")).unwrap();
        if has_init {
            fs::write(stack.join("layer@0/usr/sbin/init"), "").unwrap();
        }
        let name = Name::new("web").unwrap();
        assert!(find(Some(&stack), &name).is_none());
        fs::write(directory.path().join("web.oci-config"), format!(r#"{{"config":{config}}}"#)).unwrap();
        assert!(find(Some(&directory.path().join("web")), &name).is_none());
        below(above, find(Some(&stack), &name).unwrap(), profile)
    }

    fn words(layer: &Layer) -> Vec<String> {
        layer.command.command.values().map(|word| word.0.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_program_runs_as_its_user_beside_a_stub_init() {
        let config = r#"{"Entrypoint":["/bin/web"],"Cmd":["-x",""],"Env":["A=1","B","9=x"],"User":"www","WorkingDir":"/srv","StopSignal":"SIGQUIT"}"#;
        let (layer, problems) = read(config, Layer::default(), Profile::Unit, true);
        assert_eq!(words(&layer), ["/bin/web", "-x", ""]);
        let command = &layer.command;
        assert_eq!((command.boot.value(), command.as_pid2.value()), (Some(&false), Some(&true)));
        assert_eq!(command.user.value().map(String::as_str), Some("www"));
        assert_eq!(command.chdir.value().unwrap(), Path::new("/srv"));
        assert_eq!((layer.boot.stop_signal.value().unwrap().0, command.environment.values().count()), (3, 1));
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.message.contains("ignoring")));
        let layer = read(r#"{"Cmd":["a"],"User":"7:8"}"#, Layer::default(), Profile::Unit, true).0;
        assert_eq!(layer.command.ids.value().map(|ids| (ids.uid, ids.gid)), Some((7, 8)));
    }

    #[test]
    fn an_init_boots_and_has_no_user() {
        for config in [r#"{"Cmd":["/sbin/init"],"User":"www"}"#, r#"{"Cmd":["bash"],"User":"www"}"#, "{}"] {
            let (layer, problems) = read(config, Layer::default(), Profile::Unit, true);
            assert_eq!(layer.command.boot.value(), Some(&true), "{config}");
            assert!(problems.is_empty() && layer.command.user.value().is_none());
            assert!(words(&layer).is_empty() && layer.command.as_pid2.value().is_none());
        }
    }

    #[test]
    fn a_shell_without_init_does_not_start_as_a_unit() {
        let (_, problems) = read(r#"{"Cmd":["bash"]}"#, Layer::default(), Profile::Unit, false);
        assert!(problems[0].hint.as_ref().unwrap().contains("coracle run -M"), "{problems:?}");
        let (layer, problems) = read("{}", Layer::default(), Profile::Options, false);
        assert!(problems.is_empty());
        assert_eq!(words(&layer), ["/bin/sh"]);
    }

    #[test]
    fn other_sources_replace_the_command() {
        let config = r#"{"Cmd":["web"],"Env":["A=1"],"User":"www"}"#;
        let mut above = Layer::default();
        above.command.boot.set(true, Origin::Flag("--boot"));
        let (layer, _) = read(config, above, Profile::Options, true);
        assert!(words(&layer).is_empty() && layer.command.user.value().is_none());
        let mut above = Layer::default();
        above.command.command.push(Argument("ls".into()), Origin::Flag("COMMAND"));
        let (layer, _) = read(config, above, Profile::Options, true);
        assert_eq!(words(&layer), ["ls"]);
        assert_eq!(layer.command.user.value().map(String::as_str), Some("www"));
        let problems = read("1", Layer::default(), Profile::Unit, true).1;
        assert_eq!(problems.len(), 1);
    }
}

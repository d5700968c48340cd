//! Tests of `sources`: host trees and options in, machines out.

use crate::config::command::{Argument, Variable};
use crate::config::layer::{Layer, Origin};
use crate::config::nspawn::SettingsMode;
use crate::config::{Options, machine};
use crate::error::Result;
use crate::machine::Machine;
use crate::machine::command::Payload;
use crate::machine::contract::Contract;
use crate::machine::name::Name;
use crate::machine::network::Mode;
use crate::machine::root::{Ephemeral, Volatile};
use crate::machine::users::Users;
use crate::paths::Paths;

/// Creates the root of a host with the given files.
fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Paths) {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let file = root.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let paths = Paths::below(root.path());
    (root, paths)
}

/// Creates the image of a machine, and its .nspawn file in `/etc`.
fn nspawn_host(text: &str) -> (tempfile::TempDir, Paths) {
    host(&[("var/lib/machines/web/etc/os-release", ""), ("etc/systemd/nspawn/web.nspawn", text)])
}

/// Returns the machine of options.
fn run(paths: &Paths, layer: Layer, settings: SettingsMode) -> Machine {
    run_as(Contract::Coracle, paths, layer, settings).unwrap()
}

/// Returns the machine of options of a program.
fn run_as(contract: Contract, paths: &Paths, layer: Layer, settings: SettingsMode) -> Result<Machine> {
    crate::config::run(paths, Options { layer, settings, contract, bundle: None }, None)
        .map(|resolved| *resolved.machine)
}

/// Returns options with the name `web`.
fn named_web() -> Layer {
    let mut flags = Layer::default();
    flags.identity.name.set(Name::new("web").unwrap(), Origin::Flag("-M"));
    flags
}

#[test]
fn a_unit_has_its_defaults_below_the_nspawn_file() {
    let (_root, paths) = nspawn_host("[Exec]\nParameters=debug\nUser=\n[Files]\nBind=/srv\n");
    let unit = machine(&paths, &Name::new("web").unwrap()).unwrap().machine;
    assert_eq!(unit.command.payload, Payload::Boot { arguments: vec!["debug".into()] });
    assert_eq!((unit.network.mode, unit.users, unit.mounts.len()), (Mode::Veth, Users::Pick, 1));
    // `run` has the defaults of systemd-nspawn(1) instead, for which the file says too little.
    let found = run(&paths, named_web(), SettingsMode::Yes);
    assert_eq!(found.command.payload, Payload::Command { argv: Vec::new(), as_pid2: false });
    assert_eq!((found.network.mode, found.users, found.mounts.len()), (Mode::Host, Users::Host, 1));
    assert!(run(&paths, named_web(), SettingsMode::No).mounts.is_empty());
}

#[test]
fn options_and_nspawn_files_replace_groups() {
    let text = "[Exec]\nBoot=yes\nParameters=debug\nEnvironment=A=file\n[Files]\nBind=/srv\nReadOnly=yes\n\
                [Network]\nZone=lan\nPort=80\n";
    let (_root, paths) = nspawn_host(text);
    let mut flags = named_web();
    flags.network.mode.set(Mode::Veth, Origin::Flag("-n"));
    flags.command.environment.push(Variable::new("B", "option").unwrap(), Origin::Flag("-E"));
    flags.command.command.push(Argument("true".into()), Origin::Flag("COMMAND"));
    let found = run(&paths, flags.clone(), SettingsMode::Yes);
    assert_eq!(found.command.payload, Payload::Command { argv: vec!["true".into()], as_pid2: false });
    assert_eq!((found.network.mode, found.root.read_only), (Mode::Veth, true));
    assert_eq!(found.command.environment, [("B".into(), "option".into())]);
    let found = run(&paths, flags, SettingsMode::Override);
    assert_eq!(found.command.payload, Payload::Boot { arguments: vec!["debug".into()] });
    assert_eq!((found.network.mode, found.mounts.len()), (Mode::Zone, 1));
    assert_eq!(found.command.environment, [("A".into(), "file".into())]);
}

#[test]
fn the_first_nspawn_file_counts() {
    let beside = "var/lib/machines/web.nspawn";
    let mut files = vec![
        ("var/lib/machines/web/etc/os-release", ""),
        (beside, "[Exec]\nHostname=beside\nPrivateUsers=no\n"),
        ("run/systemd/nspawn/web.nspawn", "[Exec]\nHostname=run\n"),
        ("etc/systemd/nspawn/web.nspawn", "[Exec]\nHostname=etc\n"),
    ];
    let found = |files: &[(&str, &str)], mode| {
        let (_root, paths) = host(files);
        let machine = run(&paths, named_web(), mode);
        (machine.identity.hostname.clone().unwrap(), machine.users)
    };
    for name in ["etc", "run", "beside"] {
        assert_eq!(found(&files, SettingsMode::Yes), (name.to_owned(), Users::Host));
        files.pop();
    }
    // Beside the image only `trusted` counts `PrivateUsers=`.
    let files =
        [("var/lib/machines/web/etc/os-release", ""), (beside, "[Exec]\nHostname=x\nPrivateUsers=pick\n")];
    assert_eq!(found(&files, SettingsMode::Yes).1, Users::Host);
    assert_eq!(found(&files, SettingsMode::Trusted).1, Users::Pick);
    assert_eq!(found(&files, SettingsMode::Override).1, Users::Host);
    // An image with versions is in a directory of its own, and any directory may be the root.
    let versioned = [("var/lib/machines/web.v/web_1/etc/os-release", ""), (beside, "[Exec]\nHostname=x\n")];
    assert_eq!(found(&versioned, SettingsMode::Yes).0, "x");
    let (root, paths) =
        host(&[("srv/my/etc/os-release", ""), ("srv/my.nspawn", "[Exec]\nHostname=my-host\n")]);
    let mut flags = Layer::default();
    flags.root.directory.set(root.path().join("srv/my"), Origin::Flag("-D"));
    assert_eq!(run(&paths, flags, SettingsMode::Yes).identity.hostname.as_deref(), Some("my-host"));
}

#[test]
fn an_untrusted_file_does_not_lift_restrictions_of_options() {
    let text = "[Exec]\nNoNewPrivileges=no\nHostname=file\n[Files]\nReadOnly=no\n";
    let (_root, paths) =
        host(&[("var/lib/machines/web/etc/os-release", ""), ("var/lib/machines/web.nspawn", text)]);
    let mut flags = named_web();
    flags.root.read_only.set(true, Origin::Flag("--read-only"));
    flags.security.no_new_privileges.set(true, Origin::Flag("--no-new-privileges="));
    let machine = run(&paths, flags, SettingsMode::Override);
    assert!(machine.root.read_only && machine.security.no_new_privileges);
    assert_eq!(machine.identity.hostname.as_deref(), Some("file"));
}

#[test]
fn drop_ins_change_an_nspawn_file_by_key() {
    let (root, paths) = nspawn_host("[Exec]\nEnvironment=A=file\n[Network]\nZone=lan\n");
    let drop_in = root.path().join("etc/coracle/machines.d/web.toml.d/90-set.toml");
    std::fs::create_dir_all(drop_in.parent().unwrap()).unwrap();
    std::fs::write(drop_in, "environment.B = 'drop-in'\nresources.tasks-max = 64\n").unwrap();
    let machine = machine(&paths, &Name::new("web").unwrap()).unwrap().machine;
    assert_eq!((machine.network.mode, machine.command.environment.len()), (Mode::Zone, 2));
}

#[test]
fn the_configuration_of_an_image_is_the_lowest_source() {
    let config = r#"{"config":{"Cmd":["/bin/web"],"Env":["A=image","B=image"],"User":"7:8"}}"#;
    let mut files = vec![
        ("var/lib/machines/web.mstack/layer@0/etc/os-release", ""),
        ("var/lib/machines/web.oci-config", config),
        ("etc/systemd/nspawn/web.nspawn", "[Exec]\nEnvironment=A=file\n[Files]\nBind=/srv\n"),
    ];
    let unit = |files: &[(&str, &str)]| {
        let (_root, paths) = host(files);
        machine(&paths, &Name::new("web").unwrap()).unwrap().machine
    };
    let variables = |machine: &Machine| {
        machine.command.environment.iter().map(|(name, value)| format!("{name}={value} ")).collect::<String>()
    };
    let program = Payload::Command { argv: vec!["/bin/web".into()], as_pid2: true };
    let found = unit(&files);
    assert_eq!((&found.command.payload, found.mounts.len()), (&program, 1));
    assert_eq!(variables(&found), "B=image A=file ");
    assert_eq!(found.command.ids.as_ref().map(|ids| (ids.uid, ids.gid)), Some((7, 8)));
    // A .nspawn file with a command, as that of importctl(1).
    files[2].1 = "[Exec]\nBoot=no\nParameters=/bin/other\n";
    let other = Payload::Command { argv: vec!["/bin/other".into()], as_pid2: false };
    assert_eq!(unit(&files).command.payload, other);
    // A definition.
    files[2] = ("etc/coracle/machines.d/web.toml", "environment.B = 'toml'\n");
    let found = unit(&files);
    assert_eq!((&found.command.payload, variables(&found).as_str()), (&program, "A=image B=toml "));
    files[2].1 = "boot.init = 'systemd'\n";
    assert_eq!(unit(&files).command.payload, Payload::Boot { arguments: Vec::new() });
    // Options, and systemd-nspawn(1), which reads none.
    let (_root, paths) = host(&files[..2]);
    assert_eq!(run(&paths, named_web(), SettingsMode::Yes).command.payload, program);
    let real = run_as(Contract::Nspawn, &paths, named_web(), SettingsMode::Yes).unwrap();
    assert_eq!(real.command.payload, Payload::Command { argv: Vec::new(), as_pid2: false });
}

#[test]
fn systemd_nspawn_reads_no_definition() {
    let (_root, paths) = host(&[
        ("var/lib/machines/web/etc/os-release", ""),
        ("etc/coracle/machines.d/web.toml", "root.read-only = true\n"),
        ("etc/systemd/nspawn/web.nspawn", "[Exec]\nHostname=file\n"),
    ]);
    let defined = run(&paths, named_web(), SettingsMode::Yes);
    assert_eq!((defined.root.read_only, defined.contract), (true, Contract::Coracle));
    let machine = run_as(Contract::Nspawn, &paths, named_web(), SettingsMode::Yes).unwrap();
    assert_eq!((machine.root.read_only, machine.contract), (false, Contract::Nspawn));
    assert_eq!(machine.identity.hostname.as_deref(), Some("file"));
    assert_eq!(machine.root.path(), paths.images().join("web"));
}

#[test]
fn systemd_nspawn_names_throw_away_roots_apart() {
    let (root, paths) =
        host(&[("srv/my-tree/etc/os-release", ""), ("srv/my-tree.nspawn", "[Exec]\nHostname=x\n")]);
    let mut options = Layer::default();
    options.root.directory.set(root.path().join("srv/my-tree"), Origin::Flag("-D"));
    options.root.ephemeral.set(Ephemeral::Disk, Origin::Flag("-x"));
    let name_of = |options: &Layer| {
        let machine = run_as(Contract::Nspawn, &paths, options.clone(), SettingsMode::Yes).unwrap();
        // The file is that of the name without digits.
        assert_eq!(machine.identity.hostname.as_deref(), Some("x"));
        machine.name.as_str().to_owned()
    };
    let names = [name_of(&options), name_of(&options)];
    for name in &names {
        let digits = name.strip_prefix("my-tree-").unwrap();
        assert!(digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
    }
    assert_ne!(names[0], names[1]);
    // A reboot keeps the name, and a given name stays as it is.
    let kept = Name::new(&names[0]).unwrap();
    let again = Options {
        layer: options.clone(),
        settings: SettingsMode::Yes,
        contract: Contract::Nspawn,
        bundle: None,
    };
    assert_eq!(crate::config::run(&paths, again, Some(&kept)).unwrap().machine.name, kept);
    options.identity.name.set(Name::new("my-tree").unwrap(), Origin::Flag("-M"));
    assert_eq!(name_of(&options), "my-tree");
    assert_eq!(run(&paths, options, SettingsMode::Yes).name.as_str(), "my-tree");
}

#[test]
fn systemd_nspawn_runs_the_root_of_the_host_without_changing_it() {
    let (_root, paths) = host(&[]);
    let mut options = Layer::default();
    options.root.directory.set("/".into(), Origin::Flag("-D"));
    let run_as = |contract, options: &Layer| run_as(contract, &paths, options.clone(), SettingsMode::No);
    assert!(run_as(Contract::Nspawn, &options).is_err());
    options.root.volatile.set(Volatile::Overlay, Origin::Flag("--volatile="));
    assert!(run_as(Contract::Nspawn, &options).is_err());
    options.root.volatile.set(Volatile::State, Origin::Flag("--volatile="));
    assert!(run_as(Contract::Nspawn, &options).is_ok());
    assert!(run_as(Contract::Coracle, &options).is_err());
    options.root.volatile.set(Volatile::No, Origin::Flag("--volatile="));
    options.root.ephemeral.set(Ephemeral::Disk, Origin::Flag("-x"));
    assert_eq!(run_as(Contract::Nspawn, &options).unwrap().root.ephemeral, Ephemeral::Memory);
}

#[test]
fn words_for_an_init_are_variables_or_arguments() {
    let (_root, paths) = host(&[("var/lib/machines/web/etc/os-release", "")]);
    let mut options = named_web();
    options.command.boot.set(true, Origin::Flag("--boot"));
    options.command.environment.push(Variable::new("A_B", "option").unwrap(), Origin::Flag("--setenv="));
    for word in ["A-B=word", "C=", "systemd.unit=x.target", "quiet", "=x", "1=2"] {
        options.command.command.push(Argument(word.into()), Origin::Flag("COMMAND"));
    }
    let machine = run_as(Contract::Nspawn, &paths, options.clone(), SettingsMode::No).unwrap();
    let arguments = ["systemd.unit=x.target", "quiet", "=x", "1=2"].map(Into::into).to_vec();
    assert_eq!(machine.command.payload, Payload::Boot { arguments });
    let variables = [("A_B", "option"), ("C", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let found = &machine.command.environment;
    assert!(
        variables
            .iter()
            .all(|variable| found.iter().rev().find(|(name, _)| *name == variable.0) == Some(variable))
    );
    let Payload::Boot { arguments } = run(&paths, options, SettingsMode::No).command.payload.clone() else {
        panic!()
    };
    assert_eq!(arguments.len(), 6);
}

//! `coracle-generator` (systemd.generator(7)): what definitions limit becomes properties of their
//! units, and ports that start a machine become sockets of systemd. Run by systemd at boot and at every reload, under that name; and asked by `start` whether
//! systemd has read the definition as it is now. Must not fail: the boot of the host waits for it.

mod demand;

use crate::error::{Context, Result};
use crate::machine::Machine;
use crate::machine::name::Name;
use crate::machine::network::on_demand_unit;
use crate::paths::Paths;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name under which this program is the generator.
pub const PROGRAM: &str = "coracle-generator";
/// What systemd waits beyond the guest's own time for an orderly stop: for the supervisor to kill
/// what is left and to clean up.
const AFTERMATH: Duration = Duration::from_secs(15);

/// Writes the drop-ins of all machines below `directory`, the first one that systemd passes to a
/// generator. A machine that cannot be read or written is said in the kernel's log and left out.
pub fn run(
    directory: &Path,
    names: impl IntoIterator<Item = Name>,
    load: &mut dyn FnMut(&Name) -> Result<Machine>,
) {
    write_all(directory, names, load, &mut complain);
}

/// Whether what systemd has read is what the definition asks for now. Where it is not, systemd must read
/// its files again before the unit starts.
pub fn is_current(paths: &Paths, machine: &Machine) -> bool {
    let directory = paths.join("/run/systemd/generator");
    let drop_in_is = std::fs::read_to_string(drop_in_file(&directory, &machine.name));
    let socket_is = std::fs::read_to_string(directory.join(on_demand_unit(&machine.name)));
    drop_in_is.is_ok_and(|text| text == drop_in(machine)) && socket_is.ok() == demand::socket(machine)
}

/// The drop-in of a machine's unit.
pub fn drop_in(machine: &Machine) -> String {
    let limits = &machine.resources;
    let mut text = format!("# Made by {PROGRAM} from the definition of machine '{}'.\n\n", machine.name);
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key}={value}");
    };
    if let Some(directory) = quoted(&machine.root.directory) {
        line("[Unit]\nRequiresMountsFor", &directory);
    }
    if !machine.network.on_demand.is_empty() {
        // Which starts it again when it has stopped.
        line("[Unit]\nWants", &on_demand_unit(&machine.name));
    }
    line("\n[Service]\nTimeoutStopSec", &seconds(machine.boot.stop_timeout.saturating_add(AFTERMATH)));
    let numbers = [
        ("MemoryMax", limits.memory_max),
        ("MemoryHigh", limits.memory_high),
        ("MemorySwapMax", limits.memory_swap_max),
        ("CPUWeight", limits.cpu_weight),
        ("TasksMax", limits.tasks_max),
        ("IOWeight", limits.io_weight),
    ];
    for (key, value) in numbers {
        if let Some(value) = value {
            line(key, &value);
        }
    }
    for device in machine.security.optional_devices.iter().chain(&machine.security.devices) {
        line("DeviceAllow", &format_args!("{} rwm", device.display()));
    }
    if let Some(percent) = limits.cpu_quota {
        line("CPUQuota", &format_args!("{percent}%"));
    }
    text
}

/// [`run`], with what was left out said to `complain`.
fn write_all(
    directory: &Path,
    names: impl IntoIterator<Item = Name>,
    load: &mut dyn FnMut(&Name) -> Result<Machine>,
    complain: &mut dyn FnMut(&str),
) {
    for name in names {
        let written = load(&name).and_then(|machine| write(directory, &machine));
        if let Err(error) = written {
            complain(&format!("cannot make the drop-in of machine '{name}': {error}, ignoring"));
        }
    }
}

/// Writes what is one machine's: its drop-in, and the socket, which starts with the host.
fn write(directory: &Path, machine: &Machine) -> Result<()> {
    write_file(&drop_in_file(directory, &machine.name), &drop_in(machine))?;
    let Some(socket) = demand::socket(machine) else { return Ok(()) };
    let unit = on_demand_unit(&machine.name);
    write_file(&directory.join(&unit), &socket)?;
    let link = directory.join("sockets.target.wants").join(&unit);
    make_above(&link)?;
    std::os::unix::fs::symlink(Path::new("..").join(&unit), &link)
        .context(|| format!("cannot make the link '{}'", link.display()))
}

fn write_file(file: &Path, text: &str) -> Result<()> {
    make_above(file)?;
    std::fs::write(file, text).context(|| format!("cannot write '{}'", file.display()))
}

fn make_above(file: &Path) -> Result<()> {
    let Some(above) = file.parent() else { return Ok(()) };
    std::fs::create_dir_all(above).context(|| format!("cannot make '{}'", above.display()))
}

/// Where the drop-in of a machine lies below a directory of systemd's.
fn drop_in_file(directory: &Path, name: &Name) -> PathBuf {
    directory.join(format!("coracle@{name}.service.d/50-coracle.conf"))
}

/// A time span as systemd.time(7) has it; what does not fit its microseconds is for ever.
fn seconds(span: Duration) -> String {
    match u64::try_from(span.as_micros()) {
        Ok(micros) if micros.is_multiple_of(1_000_000) => format!("{}s", micros / 1_000_000),
        Ok(micros) => format!("{micros}us"),
        Err(_) => "infinity".into(),
    }
}

/// A path as the one word of `RequiresMountsFor=`, with no specifier in it; nothing where no unit
/// file can name it. Quotes are put in quotes, because systemd's releases differ in what a backslash
/// means there.
fn quoted(path: &Path) -> Option<String> {
    let path = path.to_str().filter(|path| !path.chars().any(|c| c.is_control() || c == '\\'))?;
    Some(format!("\"{}\"", path.replace('"', "\"'\"'\"").replace('%', "%%")))
}

/// Says something where nobody may be logging yet: to the kernel's log, else to standard error.
fn complain(text: &str) {
    let line = format!("<4>{PROGRAM}: {text}\n");
    let kernel = std::fs::OpenOptions::new().write(true).open("/dev/kmsg");
    if kernel.and_then(|mut log| log.write_all(line.as_bytes())).is_err() {
        // There is no third place to say that this failed too.
        let _ = std::io::stderr().write_all(&line.as_bytes()["<4>".len()..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::machine::{self, Parts, Register};
    use machine::init::{Boot, InitChoice, Wait};
    use machine::resources::Resources;

    fn parts(name: &str) -> Parts {
        Parts {
            name: Name::new(name).unwrap(),
            root: machine::root::Root { directory: "/srv/my %w\"eb".into(), read_only: false },
            boot: Boot {
                init: InitChoice::Auto,
                wait: Wait::Auto,
                stop_signal: None,
                stop_timeout: Duration::from_secs(90),
                start_timeout: Duration::from_secs(600),
                time_namespace: false,
            },
            command: machine::command::Command {
                payload: machine::command::Payload::Boot { arguments: Vec::new() },
                directory: None,
                user: None,
                environment: Vec::new(),
            },
            mounts: Vec::new(),
            network: machine::network::Network {
                mode: machine::network::Mode::Veth,
                zone: None,
                bridge: None,
                namespace: None,
                interfaces: Vec::new(),
                veth_extra_routed: false,
                hosts: machine::network::HostsMode::Auto,
                resolv_conf: machine::network::ResolvConf::Auto,
                ports: Vec::new(),
                on_demand: Vec::new(),
                egress: Vec::new(),
                rate_in: None,
                rate_out: None,
                connections_max: None,
            },
            users: machine::users::Users::Pick,
            ownership: machine::users::Ownership::Map,
            security: machine::security::Security::default(),
            identity: machine::identity::Identity::default(),
            resources: Resources {
                memory_max: Some(512 << 20),
                cpu_quota: Some(150),
                tasks_max: Some(2048),
                ..Resources::default()
            },
            console: machine::console::Console::Journal,
            register: Register::Auto,
            keep_unit: true,
            slice: None,
        }
    }

    #[test]
    fn limits_become_unit_properties() {
        let machine = Machine::new(parts("web")).unwrap();
        assert_eq!(
            drop_in(&machine),
            "# Made by coracle-generator from the definition of machine 'web'.\n\n\
             [Unit]\nRequiresMountsFor=\"/srv/my %%w\"'\"'\"eb\"\n\n\
             [Service]\nTimeoutStopSec=105s\nMemoryMax=536870912\nTasksMax=2048\nCPUQuota=150%\n"
        );
    }

    #[test]
    fn a_broken_definition_takes_no_other_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let names = ["a", "broken", "c"].map(|name| Name::new(name).unwrap());
        let generator = directory.path().join("run/systemd/generator");
        let mut load = |name: &Name| match name.as_str() {
            "broken" => Err(Error::new("no")),
            other => Ok(Machine::new(parts(other)).unwrap()),
        };
        let mut said = Vec::new();
        write_all(&generator, names, &mut load, &mut |text| said.push(text.to_owned()));
        assert_eq!(said, ["cannot make the drop-in of machine 'broken': no, ignoring"]);
        let paths = Paths::below(directory.path());
        assert!(is_current(&paths, &Machine::new(parts("a")).unwrap()));
        assert!(is_current(&paths, &Machine::new(parts("c")).unwrap()));
        assert!(!is_current(&paths, &Machine::new(parts("broken")).unwrap()));
        let changed = Parts { resources: Resources::default(), ..parts("a") };
        assert!(!is_current(&paths, &Machine::new(changed).unwrap()));
    }

    #[test]
    fn spans_are_systemds() {
        assert_eq!(seconds(Duration::from_millis(1500)), "1500000us");
        assert_eq!(seconds(Duration::MAX), "infinity");
    }
}

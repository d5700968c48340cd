//! The default of `--resolv-conf=` for systemd-nspawn(1), by the host. Called by `facts`. It changes nothing.

use crate::machine::Machine;
use crate::machine::network::{ResolvConf, ResolvFile, ResolvMethod};
use crate::network::resolv_conf;
use crate::paths::Paths;

/// Returns the handling of the guest's resolv.conf(5): a machine with the network of the host gets the stub of
/// systemd-resolved if it listens, else the file of the host. It is bound where it cannot be copied.
pub(super) fn automatic(paths: &Paths, machine: &Machine) -> ResolvConf {
    if machine.network.mode.is_private() {
        return ResolvConf::Off;
    }
    let is_writable = machine.root.has_writable_etc();
    let method = if is_writable { ResolvMethod::Copy } else { ResolvMethod::Bind };
    let exists = |file: ResolvFile| paths.join(file.path()).exists();
    if exists(ResolvFile::Stub) && resolv_conf::stub_listens(paths) {
        return ResolvConf::From(method, ResolvFile::Stub);
    }
    match (exists(ResolvFile::Host), is_writable) {
        (true, _) => ResolvConf::From(method, ResolvFile::Host),
        (false, true) => ResolvConf::Delete,
        (false, false) => ResolvConf::Off,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::nspawn::SettingsMode;
    use crate::config::{self, Layer, Options, Origin};
    use crate::machine::contract::Contract;
    use crate::machine::network::Mode;

    /// Returns the choice for a machine of these options on a host with these files.
    fn chosen(files: &[(&str, &str)], change: impl FnOnce(&mut Layer)) -> ResolvConf {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let file = root.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let paths = Paths::below(root.path());
        let mut layer = Layer::default();
        layer.root.directory.set("/srv/web".into(), Origin::Flag("-D"));
        change(&mut layer);
        let options = Options { layer, settings: SettingsMode::No, contract: Contract::Nspawn, bundle: None };
        automatic(&paths, &config::run(&paths, options, None).unwrap().machine)
    }

    #[test]
    fn the_stub_of_resolved_is_used_if_it_listens() {
        const HEADER: &str = "  sl  local_address rem_address   st\n";
        let host = ("etc/resolv.conf", "nameserver 192.0.2.1\n");
        let stub = ("run/systemd/resolve/stub-resolv.conf", "nameserver 127.0.0.53\n");
        let address = if cfg!(target_endian = "little") { "3500007F" } else { "7F000035" };
        let line = format!("{HEADER}  1: {address}:0035 00000000:0000 07 0:0 0:0 0 101 0 19 2 0 0\n");
        let listening = ("proc/net/udp", line.as_str());
        let of = |method, file| ResolvConf::From(method, file);
        assert_eq!(chosen(&[host, stub, listening], |_| {}), of(ResolvMethod::Copy, ResolvFile::Stub));
        assert_eq!(chosen(&[host, stub], |_| {}), of(ResolvMethod::Copy, ResolvFile::Host));
        let read_only = |layer: &mut Layer| layer.root.read_only.set(true, Origin::Flag("--read-only"));
        assert_eq!(chosen(&[host], read_only), of(ResolvMethod::Bind, ResolvFile::Host));
        assert_eq!((chosen(&[], |_| {}), chosen(&[], read_only)), (ResolvConf::Delete, ResolvConf::Off));
        let private = |layer: &mut Layer| layer.network.mode.set(Mode::Veth, Origin::Flag("-n"));
        assert_eq!(chosen(&[host, stub, listening], private), ResolvConf::Off);
    }
}

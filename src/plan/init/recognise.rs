//! Which init system a tree has, by the names of the program and by words in it. Called through
//! `plan::init`; how that init is stopped is `stop`'s.

use crate::machine::init::Init;
use std::path::{Component, Path, PathBuf};

/// Words that only the program of one init system has in it, or the script that starts it.
const MARKS: [(&[u8], Init); 8] = [
    (b"libsystemd-core-", Init::Systemd),
    (b"INIT_VERSION=sysvinit", Init::SysVinit),
    (b"OpenRC init version", Init::OpenRc),
    (b"/etc/runit/stopit", Init::Runit),
    (b"s6-linux-init", Init::S6),
    (b"s6-svscan", Init::S6),
    (b"/etc/dinit.d", Init::Dinit),
    (b"BusyBox v", Init::Busybox),
];

/// Recognises the init of a tree.
///
/// `chain` has the paths from the one that is executed (`/sbin/init`) through its symbolic links to
/// the program itself, all inside the tree; `binary` is that program's content. The program's own
/// name counts most: most distributions link `/sbin/init` to it. sysvinit has no other name than
/// `init`, so it shows by a word it puts into the environment of its children.
pub fn recognise(chain: &[PathBuf], binary: &[u8]) -> Init {
    let named = chain.iter().rev().find_map(|path| by_name(path));
    named.or_else(|| by_mark(binary)).unwrap_or(Init::Unknown)
}

/// The init system that a path names.
fn by_name(path: &Path) -> Option<Init> {
    let name = path.file_name()?.to_str()?;
    match name {
        "systemd" => Some(Init::Systemd),
        "openrc-init" => Some(Init::OpenRc),
        "runit" | "runit-init" => Some(Init::Runit),
        "s6-svscan" | "s6-init" => Some(Init::S6),
        "dinit" | "dinit-init" => Some(Init::Dinit),
        _ if name == "busybox" || name.starts_with("busybox.") || name.starts_with("busybox-") => {
            Some(Init::Busybox)
        }
        // s6-linux-init-maker(1) writes a script `init` below /etc/s6-linux-init.
        _ if path.components().any(|part| part == Component::Normal("s6-linux-init".as_ref())) => {
            Some(Init::S6)
        }
        _ => None,
    }
}

/// The init system that words in the program tell of.
fn by_mark(binary: &[u8]) -> Option<Init> {
    MARKS.iter().find(|(mark, _)| contains(binary, mark)).map(|(_, init)| *init)
}

/// Whether `word`, which is not empty, occurs in `bytes`.
fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognised(chain: &[&str], binary: &[u8]) -> Init {
        let chain: Vec<PathBuf> = chain.iter().map(PathBuf::from).collect();
        recognise(&chain, binary)
    }

    #[test]
    fn by_the_name_of_the_program() {
        for (chain, init) in [
            (&["/sbin/init", "/usr/sbin/init", "/usr/lib/systemd/systemd"][..], Init::Systemd),
            (&["/usr/sbin/init", "/usr/sbin/runit-init"], Init::Runit),
            (&["/sbin/init", "/sbin/openrc-init"], Init::OpenRc),
            (&["/sbin/init", "/bin/busybox"], Init::Busybox),
            (&["/sbin/init", "/bin/busybox.static"], Init::Busybox),
            (&["/sbin/init", "/usr/bin/dinit"], Init::Dinit),
            (&["/sbin/init", "/usr/bin/dinit-init", "/usr/lib/dinit/wrapper"], Init::Dinit),
            (&["/sbin/init", "/etc/s6-linux-init/current/bin/init"], Init::S6),
            (&["/usr/bin/s6-svscan"], Init::S6),
            (&["/sbin/init"], Init::Unknown),
            (&["/"], Init::Unknown),
            (&[], Init::Unknown),
        ] {
            assert_eq!(recognised(chain, b"\x7fELF"), init, "{chain:?}");
        }
    }

    #[test]
    fn by_words_in_the_program() {
        for (binary, init) in [
            (&b"\x7fELF...\0INIT_VERSION=sysvinit-3.14\0..."[..], Init::SysVinit),
            (b"\x7fELF...\0libsystemd-core-257.so\0", Init::Systemd),
            (b"\x7fELF..OpenRC init version %s starting\n", Init::OpenRc),
            (b"\x7fELF..BusyBox v1.37.0", Init::Busybox),
            (b"#!/bin/execlineb -P\ns6-linux-init -c /x -- \"$@\"\n", Init::S6),
            (b"#!/bin/sh\nexec /app\n", Init::Unknown),
            (b"Bus", Init::Unknown),
            (b"", Init::Unknown),
        ] {
            assert_eq!(recognised(&["/sbin/init"], binary), init);
        }
    }

    #[test]
    fn a_name_counts_more_than_a_word() {
        assert_eq!(recognised(&["/sbin/init", "/sbin/runit-init"], b"BusyBox v1"), Init::Runit);
    }
}

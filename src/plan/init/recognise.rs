//! Recognises the init system of a tree or a running machine, by the names of its program and by words in it.
//! Called through `plan::init`.

use crate::machine::init::Init;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Words that occur only in the program of one init system, or in the script that starts it.
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

/// Recognises the init of a tree by the paths from the executed one (`/sbin/init`) through its symbolic links
/// to the program itself, all inside the tree. The program's own name comes first: most distributions link
/// `/sbin/init` to it. `None` if the content of the program is needed: sysvinit has no other name than
/// `init`.
pub(crate) fn recognise_names(chain: &[PathBuf]) -> Option<Init> {
    chain.iter().rev().find_map(|path| by_name(path))
}

/// Recognises the init of a tree by the content of its program, for example sysvinit's word for the
/// environment of its children.
pub(crate) fn recognise_content(binary: &[u8]) -> Init {
    by_mark(binary).unwrap_or(Init::Unknown)
}

/// A program that a script executes with `exec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Successor {
    /// Its absolute path.
    pub(crate) program: PathBuf,
    /// Its first argument, empty if there is none.
    pub(crate) argument: String,
}

impl Successor {
    /// Returns whether busybox(1) runs its init applet with this name and argument.
    pub(crate) fn is_init_applet(&self) -> bool {
        let name = self.program.file_name().unwrap_or_default();
        is_init_name(name.as_bytes()) || self.argument == "init"
    }
}

/// Returns the programs that a script executes by `exec` and an absolute path, the last one first. Another
/// file has none.
pub(crate) fn successors(script: &[u8]) -> Vec<Successor> {
    let mut found = Vec::new();
    for line in script_lines(script) {
        let words: Vec<&str> = line.split_whitespace().map(unquoted).collect();
        for (at, _) in words.iter().enumerate().filter(|(_, word)| **word == "exec") {
            let rest = words.get(at + 1..).unwrap_or_default();
            let argument = rest.get(1).map_or_else(String::new, |word| (*word).to_owned());
            let program = rest.first().filter(|word| word.starts_with('/')).map(PathBuf::from);
            found.extend(program.map(|program| Successor { program, argument }));
        }
    }
    found.reverse();
    found
}

/// Returns whether a program of an unknown kind may execute an init: a script with `exec`, or a program that
/// contains the path of systemd.
pub(crate) fn may_have_successor(binary: &[u8]) -> bool {
    let has_exec = script_lines(binary).any(|line| line.split_whitespace().any(|word| word == "exec"));
    has_exec || contains(binary, b"systemd/systemd")
}

/// Returns the lines of a script without comments. Empty for any other file.
fn script_lines(binary: &[u8]) -> impl Iterator<Item = &str> {
    let text = binary.strip_prefix(b"#!").and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
    text.lines().skip(1).map(str::trim_start).filter(|line| !line.starts_with('#'))
}

fn unquoted(word: &str) -> &str {
    word.trim_matches(|c| matches!(c, '"' | '\'' | ';'))
}

/// Recognises the init of a process by the path of its program (proc_pid_exe(5)). `None` if the path does not
/// suffice.
pub(crate) fn recognise_program(program: &Path) -> Option<Init> {
    let bytes = program.as_os_str().as_bytes();
    let program = Path::new(OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes)));
    // busybox is a shell as well.
    by_name(program).filter(|init| *init != Init::Busybox)
}

/// Recognises the init that a process is by its arguments, each ended by a NUL (proc_pid_cmdline(5)), and the
/// content of its program.
pub(crate) fn recognise_process(arguments: &[u8], binary: &[u8]) -> Init {
    let mut words = arguments.split(|byte| *byte == 0);
    let (name, argument) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let name = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    match by_mark(binary) {
        // The init applet overwrites its arguments with its name.
        Some(Init::Busybox) if !is_init_name(name) && argument != b"init" => Init::Unknown,
        known => known.unwrap_or(Init::Unknown),
    }
}

/// Returns whether busybox(1) runs its init applet under this name.
fn is_init_name(name: &[u8]) -> bool {
    matches!(name, b"init" | b"linuxrc")
}

/// Recognises an init system by the name of its program.
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

/// Recognises an init system by words in its program.
fn by_mark(binary: &[u8]) -> Option<Init> {
    MARKS.iter().find(|(mark, _)| contains(binary, mark)).map(|(_, init)| *init)
}

/// Returns whether bytes contain a word.
fn contains(bytes: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(bytes, word).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognised(chain: &[&str]) -> Option<Init> {
        recognise_names(&chain.iter().map(PathBuf::from).collect::<Vec<_>>())
    }

    #[test]
    fn by_the_name_of_the_program() {
        for (chain, init) in [
            (&["/sbin/init", "/usr/sbin/init", "/usr/lib/systemd/systemd"][..], Some(Init::Systemd)),
            (&["/usr/sbin/init", "/usr/sbin/runit-init"], Some(Init::Runit)),
            (&["/sbin/init", "/sbin/openrc-init"], Some(Init::OpenRc)),
            (&["/sbin/init", "/bin/busybox"], Some(Init::Busybox)),
            (&["/sbin/init", "/bin/busybox.static"], Some(Init::Busybox)),
            (&["/sbin/init", "/usr/bin/dinit"], Some(Init::Dinit)),
            (&["/sbin/init", "/usr/bin/dinit-init", "/usr/lib/dinit/wrapper"], Some(Init::Dinit)),
            (&["/sbin/init", "/etc/s6-linux-init/current/bin/init"], Some(Init::S6)),
            (&["/usr/bin/s6-svscan"], Some(Init::S6)),
            (&["/sbin/init"], None),
            (&["/sbin/runit-init", "/bin/busybox"], Some(Init::Busybox)),
            (&["/"], None),
            (&[], None),
        ] {
            assert_eq!(recognised(chain), init, "{chain:?}");
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
            assert_eq!(recognise_content(binary), init);
        }
    }

    #[test]
    fn a_script_names_the_program_that_follows_it() {
        let script = b"#!/bin/sh\n# exec /bin/no\nexec >/dev/console 2>&1\n[ -e /x ] && exec /bin/sh\n\
            exec \"/opt/systemd/systemd\" \"$@\"; exit 1\n";
        let programs: Vec<_> = successors(script).into_iter().map(|next| next.program).collect();
        assert_eq!(programs, [Path::new("/opt/systemd/systemd"), Path::new("/bin/sh")]);
        for (line, expected) in
            [("exec /bin/busybox init", true), ("exec /sbin/init", true), ("exec /bin/sh -l", false)]
        {
            let found = successors(format!("#!/bin/sh\n{line}\n").as_bytes());
            assert_eq!(found.first().map(Successor::is_init_applet), Some(expected), "{line}");
        }
        assert!(may_have_successor(b"#!/bin/sh\nINIT=/x\nexec $INIT\n"));
        assert!(may_have_successor(b"\x7fELF..\0/lib/systemd/systemd\0"));
        for none in [&b"\x7fELF\nexec /sbin/init\n"[..], b"#!/bin/sh\nsleep 9\n# exec /sbin/init\n", b""] {
            assert!(successors(none).is_empty() && !may_have_successor(none));
        }
    }

    #[test]
    fn a_process_is_recognised_by_its_program() {
        for (path, init) in [
            ("/opt/systemd/systemd", Some(Init::Systemd)),
            ("/usr/lib/systemd/systemd (deleted)", Some(Init::Systemd)),
            ("/usr/bin/busybox", None),
            ("/usr/sbin/init", None),
        ] {
            assert_eq!(recognise_program(Path::new(path)), init, "{path}");
        }
        let busybox = b"\x7fELF..BusyBox v1.37.0";
        for (arguments, binary, init) in [
            (&b"/sbin/init\0"[..], &busybox[..], Init::Busybox),
            (b"init\0\0\0\0", busybox, Init::Busybox),
            (b"busybox\0init\0", busybox, Init::Busybox),
            (b"/bin/sh\0/sbin/init\0", busybox, Init::Unknown),
            (b"init [2]\0", b"\x7fELF INIT_VERSION=sysvinit-3", Init::SysVinit),
            (b"", b"", Init::Unknown),
        ] {
            assert_eq!(recognise_process(arguments, binary), init);
        }
    }
}

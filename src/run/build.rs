//! Finds the build user of a session in its base, and composes the files that the session has in the place of
//! those of the base. Called by `facts`.

use crate::error::{Error, Result};
use crate::host::binfmt;
use crate::host::probe::Tree;
use crate::image::commit;
use crate::machine::Machine;
use crate::machine::build::BuildUser;
use crate::machine::network::Mode;
use crate::machine::root::RootSource;
use crate::machine::users::Users;
use crate::paths::Paths;
use crate::plan::identity::hostname;
use crate::plan::init::Architecture;
use crate::plan::{BuildFacts, Emulator};
use crate::state::build::CreatedFile;
use crate::state::record::Record;
use std::path::{Path, PathBuf};

/// Returns the build user and the files of a session. `None` for all other machines.
///
/// # Errors
/// A user that contradicts the users of the base, or whose number is outside the range of the session.
pub(super) fn find(paths: &Paths, machine: &Machine, tree: &Tree) -> Result<Option<BuildFacts>> {
    let Some(build) = &machine.build else { return Ok(None) };
    let mut facts = BuildFacts {
        caller: build.user.caller,
        inside: (0, 0),
        home: None,
        files: Vec::new(),
        emulator: None,
        exposed_root: build.is_exposed.then(|| paths.session_root(&machine.name)),
    };
    facts.emulator = emulator(machine, tree)?;
    if !tree.has(Path::new("/etc")) {
        return Ok(Some(facts));
    }
    let passwd = tree.read_text("/etc/passwd").unwrap_or_default();
    let has_range = !matches!(machine.users, Users::Host | Users::Identity);
    let limit = if has_range { machine.id_count() } else { u32::MAX };
    match existing(&passwd, &build.user)? {
        Some(inside) => facts.inside = inside,
        None => add(tree, &passwd, &build.user, limit, &mut facts)?,
    }
    check_range(&build.user.name, facts.inside, limit)?;
    facts.files.push(("/etc/hosts".into(), hosts(&hostname(machine))));
    if machine.network.mode == Mode::None {
        // A resolver asks no server, and fails at once.
        facts.files.push(("/etc/resolv.conf".into(), String::new()));
    }
    Ok(Some(facts))
}

/// Completes the record of a session, if it is one, with the files that it creates and the directories that its
/// root stands on.
///
/// # Errors
/// An invalid stack.
pub(super) fn complete(record: &mut Record, machine: &Machine, facts: Option<&BuildFacts>) -> Result<()> {
    let (Some(record), Some(facts)) = (&mut record.build, facts) else { return Ok(()) };
    for (path, content) in &facts.files {
        record.files.retain(|file| file.path() != path);
        record.files.push(CreatedFile::new(path.clone(), content));
    }
    if let RootSource::Stack(stack) = &machine.root.source {
        record.lower = commit::inodes(stack)?;
    }
    Ok(())
}

/// Returns the emulator that the session registers for the programs of its base. `None` if the host executes them.
///
/// # Errors
/// The host has neither a handler nor a program for it.
fn emulator(machine: &Machine, tree: &Tree) -> Result<Option<Emulator>> {
    let host = std::env::consts::ARCH;
    let Some((head, Architecture::Named(name))) = tree.program_head(Path::new("/bin/sh")) else {
        return Ok(None);
    };
    // The 32-bit variant of the processor needs no emulator.
    let is_native = name == host || matches!((name, host), ("x86", "x86_64") | ("arm", "aarch64"));
    if is_native || binfmt::takes(&head) {
        return Ok(None);
    }
    let separate = machine.users != Users::Host && binfmt::is_separate();
    let installed = binfmt::installed(&head, name);
    if let Some(emulator) = installed.clone().filter(|_| separate) {
        return Ok(Some(emulator));
    }
    let error = Error::new(format!("the base is for {name}, this host is {host}"));
    Err(match installed {
        Some(_) if machine.users == Users::Host => error.with_hint(
            "the session has no user namespace of its own: install qemu-user-binfmt, or begin it without --users=no",
        ),
        Some(_) => error.with_hint("install qemu-user-binfmt: before Linux 6.7 only the host registers emulators"),
        None => error.with_hint("install qemu-user-binfmt, in Debian 12 qemu-user-static"),
    })
}

fn hosts(hostname: &str) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    if hostname != "localhost" {
        text.push_str(&format!("127.0.1.1\t{hostname}\n"));
    }
    text
}

/// Returns the fields of a line of passwd(5) or group(5): name and number.
fn entry(line: &str) -> Option<(&str, u32)> {
    let mut fields = line.split(':');
    Some((fields.next()?, fields.nth(1)?.parse().ok()?))
}

/// Returns user and group of the base. `None` if it does not have the user.
fn existing(passwd: &str, user: &BuildUser) -> Result<Option<(u32, u32)>> {
    let name = &user.name;
    if name == "root" {
        return Ok(Some((0, 0)));
    }
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name));
    let Some((line, (_, uid))) = line.and_then(|line| Some((line, entry(line)?))) else { return Ok(None) };
    if let Some(wanted) = user.uid.filter(|wanted| *wanted != uid) {
        return Err(Error::new(format!("user '{name}' of the base has the id {uid}, not {wanted}"))
            .with_hint(format!("write --user={name}, or another name")));
    }
    let gid = line.split(':').nth(3).and_then(|gid| gid.parse().ok()).unwrap_or(uid);
    Ok(Some((uid, gid)))
}

/// Refuses a user outside the range of ids of the session.
fn check_range(name: &str, (uid, gid): (u32, u32), limit: u32) -> Result<()> {
    if uid.max(gid) < limit {
        return Ok(());
    }
    Err(Error::new(format!("the ids {uid}:{gid} of user '{name}' are outside the range of the session"))
        .with_hint(format!(
            "choose a user with numbers below {limit} with --user=, for example --user=builder:1000"
        )))
}

/// Returns user and group of a build user that the base does not have: those of the caller, if they are in the
/// range of the session.
fn chosen(user: &BuildUser, passwd: &str, limit: u32) -> (u32, u32) {
    match (user.uid, user.caller) {
        (Some(uid), _) => (uid, uid),
        (None, (0, _)) => free(passwd),
        (None, (uid, gid)) if uid.max(gid) >= limit => free(passwd),
        (None, caller) => caller,
    }
}

/// Adds the build user to the files of the session.
fn add(tree: &Tree, passwd: &str, user: &BuildUser, limit: u32, facts: &mut BuildFacts) -> Result<()> {
    let name = &user.name;
    let (uid, gid) = chosen(user, passwd, limit);
    if let Some((other, _)) = passwd.lines().filter_map(entry).find(|(_, number)| *number == uid) {
        return Err(Error::new(format!("the id {uid} of user '{name}' belongs to '{other}' of the base"))
            .with_hint(format!("write --user={other}, or --user={name}:UID with a free number")));
    }
    let home = format!("/home/{name}");
    let shell = if tree.has(Path::new("/bin/bash")) { "/bin/bash" } else { "/bin/sh" };
    // No password, and no entry in shadow(5), without which su(1) would refuse an account of the kind `x`.
    let line = format!("{name}:*:{uid}:{gid}::{home}:{shell}");
    facts.files.push(("/etc/passwd".into(), appended(passwd, &line)));
    let groups = tree.read_text("/etc/group").unwrap_or_default();
    let mut known = groups.lines().filter_map(entry);
    if !known.any(|(known, number)| number == gid || known == name) {
        facts.files.push(("/etc/group".into(), appended(&groups, &format!("{name}:x:{gid}:"))));
    }
    (facts.inside, facts.home) = ((uid, gid), Some(PathBuf::from(home)));
    Ok(())
}

/// Returns the first number from 1000 on that no user of a base has, as user and group.
fn free(passwd: &str) -> (u32, u32) {
    let used: Vec<u32> = passwd.lines().filter_map(entry).map(|(_, number)| number).collect();
    let uid = (1000..u32::MAX).find(|uid| !used.contains(uid)).unwrap_or(1000);
    (uid, uid)
}

/// Returns a text with one more line.
fn appended(text: &str, line: &str) -> String {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}{line}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, uid: Option<u32>) -> BuildUser {
        BuildUser { name: name.into(), uid, caller: (1000, 1000) }
    }

    #[test]
    fn a_user_of_the_base_keeps_its_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbuilder:x:900:901::/:/bin/sh\nodd\n";
        assert_eq!(existing(passwd, &user("builder", None)).unwrap(), Some((900, 901)));
        assert_eq!(existing(passwd, &user("builder", Some(900))).unwrap(), Some((900, 901)));
        assert!(existing(passwd, &user("builder", Some(7))).is_err());
        assert_eq!(existing(passwd, &user("ann", Some(7))).unwrap(), None);
        assert_eq!(existing("", &user("root", None)).unwrap(), Some((0, 0)));
    }

    #[test]
    fn a_caller_outside_the_range_has_another_number_inside() {
        let of = |uid, caller| BuildUser { name: "ann".into(), uid, caller };
        let passwd = "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n";
        assert_eq!(chosen(&of(None, (65535, 7)), passwd, 65536), (65535, 7));
        for caller in [(65536, 7), (7, 1_234_567_890), (0, 0)] {
            assert_eq!(chosen(&of(None, caller), passwd, 65536), (1001, 1001));
        }
        assert_eq!(chosen(&of(None, (65536, 7)), passwd, u32::MAX), (65536, 7));
        let wanted = chosen(&of(Some(65536), (7, 7)), passwd, 65536);
        assert!(check_range("ann", wanted, 65536).is_err());
        assert!(check_range("ann", (7, 65536), 65536).is_err());
        assert!(check_range("ann", (7, 65535), 65536).is_ok());
    }

    #[test]
    fn a_line_is_appended_to_complete_lines() {
        assert_eq!(appended("a\n", "b"), "a\nb\n");
        assert_eq!(appended("a", "b"), "a\nb\n");
        assert_eq!(appended("", "b"), "b\n");
        assert!(!hosts("localhost").contains("127.0.1.1") && hosts("x").ends_with("127.0.1.1\tx\n"));
    }
}

//! The records of users of the host for a machine, by the host's getent(1). Called by `facts`.

use crate::error::{Context, Error, Result};
use crate::host::probe::Tree;
use crate::machine::Machine;
use crate::machine::bound_users::{BoundShell, IDS};
use crate::machine::users::Users;
use crate::plan::{self, BoundUser};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::process::{Command, Stdio};

/// Finds the users.
///
/// # Errors
/// A user that the host does not have, or that the tree has; no user namespace; no free id.
pub(super) fn find(machine: &Machine, tree: &Tree) -> Result<Vec<BoundUser>> {
    if machine.bound_users.names.is_empty() {
        return Ok(Vec::new());
    }
    let taken = tree.names();
    let mut found: Vec<BoundUser> = Vec::new();
    for name in &machine.bound_users.names {
        let doing = || format!("cannot bind user '{name}' of the host");
        let user = bound(machine, &taken, name, &found).map_err(|error| error.context(doing()))?;
        found.push(user);
    }
    Ok(found)
}

/// Finds one user; `taken` are the names and numbers of the users and groups of the tree.
fn bound(machine: &Machine, taken: &HashSet<String>, name: &str, others: &[BoundUser]) -> Result<BoundUser> {
    if machine.users == Users::Host {
        return Err(Error::new("this requires a user namespace").with_hint("set users.private = \"pick\""));
    }
    let entry = entry("passwd", name)?.ok_or_else(|| Error::new("there is no such user"))?;
    let invalid = || Error::new("its entry in passwd(5) is invalid");
    let fields: Vec<&str> = entry.split(':').collect();
    let [_, _, uid, gid, real_name, home, shell] = fields[..] else {
        return Err(invalid());
    };
    let number = |text: &str| text.parse::<u32>().map_err(|_| invalid());
    let outside = (number(uid)?, number(gid)?);
    if outside.0 == 0 || outside.0 == 65534 {
        return Err(Error::new("root and nobody cannot be bound"));
    }
    if taken.contains(name) || others.iter().any(|other| other.name == name) {
        return Err(Error::new("the machine has a user or group of this name"));
    }
    let is_free =
        |id: &u32| !taken.contains(&id.to_string()) && others.iter().all(|other| other.inside != *id);
    let inside = IDS.into_iter().find(is_free).ok_or_else(|| Error::new("no user id is free inside"))?;
    let shell = match &machine.bound_users.shell {
        BoundShell::Default => None,
        BoundShell::Host => Some(shell.to_owned()),
        BoundShell::Path(path) => Some(path.display().to_string()),
    };
    let groups = machine.bound_users.groups.clone();
    let record = user_record(name, inside, real_name, shell, &groups);
    Ok(BoundUser {
        name: name.to_owned(),
        home: home.into(),
        outside,
        inside,
        record: record.to_string(),
        privileged: password(name)?.map(|hash| json!({ "hashedPassword": [hash] }).to_string()),
        group: json!({
            "groupName": name, "gid": inside, "service": "io.systemd.NSpawn", "disposition": "container",
        })
        .to_string(),
        groups,
    })
}

/// Returns the public part of a user record (systemd's USER_RECORD).
fn user_record(name: &str, id: u32, real_name: &str, shell: Option<String>, groups: &[String]) -> Value {
    let mut record = Map::new();
    let mut set = |key: &str, value: Value| record.insert(key.to_owned(), value);
    set("userName", json!(name));
    set("uid", json!(id));
    set("gid", json!(id));
    set("disposition", json!("container"));
    set("homeDirectory", json!(plan::home_inside(name)));
    set("service", json!("io.systemd.NSpawn"));
    let real_name = real_name.split(',').next().unwrap_or_default();
    if !real_name.is_empty() {
        set("realName", json!(real_name));
    }
    if let Some(shell) = shell {
        set("shell", json!(shell));
    }
    if !groups.is_empty() {
        set("memberOf", json!(groups));
    }
    Value::Object(record)
}

/// Returns the hashed password of a user. `None` if it has none that can be entered.
fn password(name: &str) -> Result<Option<String>> {
    let entry = entry("shadow", name)?;
    let hash = entry.as_deref().and_then(|entry| entry.split(':').nth(1)).unwrap_or_default();
    Ok((!hash.is_empty() && !hash.starts_with(['!', '*'])).then(|| hash.to_owned()))
}

/// Returns an entry of a database of the host. `None` if there is none.
fn entry(database: &str, name: &str) -> Result<Option<String>> {
    let mut command = Command::new("getent");
    command.args(["--", database, name]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().context(|| "cannot run the host's getent(1)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().filter(|_| output.status.success()).map(str::to_owned))
}

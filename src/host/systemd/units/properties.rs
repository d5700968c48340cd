//! Sets properties of a unit that are given as text. systemctl(1) knows their types.

use crate::error::{Context, Error, Result};
use std::process::{Command, Stdio};

/// Sets properties of a running unit, each as `NAME=VALUE`, until it ends.
///
/// # Errors
/// systemctl is missing, or refuses.
pub(crate) fn set_from_text(unit: &str, properties: &[String]) -> Result<()> {
    let doing = || format!("cannot set the properties of '{unit}'");
    let mut command = Command::new("systemctl");
    command.args(["--no-ask-password", "--runtime", "set-property", "--", unit]).args(properties);
    let output = command.stdin(Stdio::null()).output().context(doing)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let line = message.lines().next().unwrap_or("no message");
    Err(Error::new(format!("systemctl: {}", line.escape_debug()))
        .context(doing())
        .with_hint("see systemd.resource-control(5) for properties that a scope can have"))
}

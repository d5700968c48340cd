//! Processes of the host, read from `/proc`.

use crate::sys::pseudo_file;

/// Returns the start time of a process in clock ticks since boot (proc_pid_stat(5), `starttime`). `None` if
/// there is no such process or if it has ended: systemd runs the clean-up of a unit before it reaps the ended
/// process.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = pseudo_file::read(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.get(stat.rfind(')')? + 2..)?;
    if after_name.starts_with(['Z', 'X']) {
        return None;
    }
    after_name.split(' ').nth(19)?.parse().ok()
}

/// Returns the name of the program of a process (proc_pid_comm(5)). `None` if there is no such process.
pub(crate) fn command_name(pid: u32) -> Option<String> {
    let name = pseudo_file::read(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned()).filter(|name| !name.is_empty())
}

/// Returns the verb of a process of Coracle: the first argument of its program (proc_pid_cmdline(5)). `None`
/// for one that is no word.
pub(crate) fn verb(pid: u32) -> Option<String> {
    let arguments = pseudo_file::read(format!("/proc/{pid}/cmdline")).ok()?;
    let verb = arguments.split('\0').nth(1)?;
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
    (!verb.starts_with('-') && !verb.is_empty() && verb.bytes().all(is_word)).then(|| verb.to_owned())
}

/// Decodes a field of proc_pid_mountinfo(5), which escapes blanks, line ends and backslashes as three octal
/// digits.
pub(crate) fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_process_has_no_start_time_before_it_is_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        while start_time(child.id()).is_some() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(std::path::Path::new("/proc").join(child.id().to_string()).exists());
        child.wait().unwrap();
    }
}

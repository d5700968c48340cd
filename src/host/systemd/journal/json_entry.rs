//! One entry of a journal, parsed from journalctl's JSON. The guest's text is untrusted: it may have any
//! bytes, control characters included.

use super::Fields;
use serde_json::Value;
use std::fmt::Write as _;

/// The fields requested from journalctl; it adds time and cursor.
pub(super) const FIELDS: [&str; 8] = [
    "MESSAGE",
    "SYSLOG_IDENTIFIER",
    "SYSLOG_PID",
    "_COMM",
    "_PID",
    "PRIORITY",
    "CORACLE_LEADER",
    "CORACLE_BOOT_ID",
];

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JournalEntry {
    /// Time, microseconds since the epoch.
    pub(crate) time: u64,
    /// The source: `console` for a line of the machine's console, else the identifier of the program.
    pub(crate) source: String,
    /// Process id of the program, in the view of its journal.
    pub(crate) pid: Option<u32>,
    /// syslog(3) priority, 0 the most urgent.
    pub(crate) priority: Option<u8>,
    /// The message, printable: see [`printable`].
    pub(crate) message: String,
    /// Whether it is a line of the machine's console.
    pub(crate) is_console: bool,
    /// The id of the machine's boot, 32 hex digits. `None` if it is not recorded.
    pub(crate) boot: Option<String>,
    /// The position in its journal, for journalctl's `--after-cursor=`.
    pub(crate) cursor: Option<String>,
    /// The entry as JSON on one line with all control characters escaped. `None` unless all fields are
    /// requested.
    pub(crate) whole: Option<String>,
}

impl JournalEntry {
    /// Parses one line of JSON. `None` if it is not an entry.
    pub(super) fn parse(line: &[u8], fields: Fields) -> Option<Self> {
        let value: Value = serde_json::from_slice(line).ok()?;
        let field = |name: &str| value.get(name).and_then(bytes);
        let text = |name: &str| field(name).map(|bytes| printable(&bytes));
        let number = |name: &str| text(name).and_then(|text| text.parse().ok());
        let one_line = |name: &str| field(name).map(|bytes| printable_line(&bytes));
        let identifier = || one_line("SYSLOG_IDENTIFIER").or_else(|| one_line("_COMM"));
        let console = value.get("CORACLE_LEADER").map(|_| "console".to_owned());
        Some(Self {
            time: text("__REALTIME_TIMESTAMP")?.parse().ok()?,
            // The sender of messages forwarded for the guest is the supervisor.
            pid: match (&console, value.get("CORACLE_BOOT_ID")) {
                (Some(_), _) => None,
                (None, Some(_)) => number("SYSLOG_PID"),
                (None, None) => number("_PID"),
            },
            is_console: console.is_some(),
            source: console.or_else(identifier).unwrap_or_else(|| "unknown".into()),
            priority: number("PRIORITY").and_then(|number| u8::try_from(number).ok()),
            message: match value.get("MESSAGE") {
                Some(Value::Null) => "[message left out: longer than 4 KiB]".into(),
                _ => text("MESSAGE").unwrap_or_default(),
            },
            boot: text("CORACLE_BOOT_ID"),
            cursor: text("__CURSOR"),
            whole: (fields == Fields::All).then(|| escape_layout(&value.to_string())),
        })
    }
}

/// Returns the bytes of a field: a string, an array of numbers if they are not UTF-8, or an array of these
/// for a repeated field, of which the last counts.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Array(items) if items.iter().all(Value::is_u64) => {
            items.iter().map(|item| u8::try_from(item.as_u64()?).ok()).collect()
        }
        Value::Array(items) => items.last().and_then(bytes),
        _ => None,
    }
}

/// Returns untrusted text for a terminal: invalid UTF-8 is replaced, colours are removed, and all control
/// characters but tab and newline are written as `\xNN`.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.trim_end_matches(['\r', '\n']).chars();
    while let Some(c) = rest.next() {
        match c {
            '\t' | '\n' => shown.push(c),
            '\x1b' => match after_sequence(rest.as_str()) {
                Some(after) => rest = after.chars(),
                None => shown.push_str("\\x1b"),
            },
            c if c.is_control() => drop(write!(shown, "\\x{:02x}", u32::from(c))),
            c if is_layout(c) => drop(write!(shown, "\\u{:04x}", u32::from(c))),
            c => shown.push(c),
        }
    }
    shown
}

/// Returns untrusted text for one line of a terminal: for names, which contain neither tabs nor newlines.
pub(crate) fn printable_line(bytes: &[u8]) -> String {
    printable(bytes).replace('\n', "\\x0a").replace('\t', "\\x09")
}

/// Returns whether a character changes the order or the lines of the text around it: line and paragraph
/// separators, embeddings, overrides and isolates of directions (Unicode Standard Annex #9).
fn is_layout(c: char) -> bool {
    matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escapes the characters of [`is_layout`] in JSON: they can only occur in its strings.
fn escape_layout(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut text, c| {
        if is_layout(c) {
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
        text
    })
}

/// Returns the text after a control sequence (ECMA-48, CSI), of which the escape character is removed
/// already.
fn after_sequence(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix('[')?;
    let end = parameters.find(|c: char| !matches!(c, '0'..='?' | ' '..='/'))?;
    let last = parameters[end..].chars().next()?;
    matches!(last, '@'..='~').then(|| &parameters[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_source_and_time() {
        let line = br#"{"__REALTIME_TIMESTAMP":"1795460628790644","SYSLOG_IDENTIFIER":"systemd","_PID":"1",
            "PRIORITY":"6","MESSAGE":"up","__CURSOR":"s=1"}"#;
        let entry = JournalEntry::parse(line, Fields::Shown).unwrap();
        assert_eq!(
            (entry.time, entry.source.as_str(), entry.pid),
            (1_795_460_628_790_644, "systemd", Some(1))
        );
        let line = br#"{"__REALTIME_TIMESTAMP":"1","CORACLE_LEADER":"9","_PID":"7","SYSLOG_IDENTIFIER":"web",
            "MESSAGE":"login:"}"#;
        let entry = JournalEntry::parse(line, Fields::Shown).unwrap();
        assert_eq!((entry.source.as_str(), entry.pid, entry.message.as_str()), ("console", None, "login:"));
    }

    #[test]
    fn messages_of_every_form_are_text() {
        let message = |json: &str| {
            let line = format!("{{\"__REALTIME_TIMESTAMP\":\"1\",\"MESSAGE\":{json}}}");
            JournalEntry::parse(line.as_bytes(), Fields::Shown).unwrap().message
        };
        assert_eq!(message("[104,105,255]"), "hi\u{fffd}");
        assert_eq!(message("[\"one\",[116,119,111]]"), "two");
        assert_eq!(message("[]"), "");
        assert!(message("null").contains("left out"));
        assert_eq!(message("[1,2,900]"), "");
        for bad in ["", "{}", "[]", "{\"__REALTIME_TIMESTAMP\":\"x\"}", "\u{0}"] {
            assert_eq!(JournalEntry::parse(bad.as_bytes(), Fields::Shown), None);
        }
    }

    #[test]
    fn an_identifier_stays_on_its_line() {
        let line = "{\"__REALTIME_TIMESTAMP\":\"1\",\"SYSLOG_IDENTIFIER\":\"x[1]: y\\nDec 01 root\\t\u{202e}\",\"MESSAGE\":\"\u{2028}m\"}";
        let entry = JournalEntry::parse(line.as_bytes(), Fields::All).unwrap();
        assert_eq!(entry.source, "x[1]: y\\x0aDec 01 root\\x09\\u202e");
        assert_eq!(entry.message, "\\u2028m");
        let whole = entry.whole.unwrap();
        assert!(whole.is_ascii() && whole.contains("\\u202e"), "{whole}");
        assert_eq!(serde_json::from_str::<Value>(&whole).unwrap()["MESSAGE"], "\u{2028}m");
    }

    #[test]
    fn a_guest_cannot_change_the_cursor() {
        assert_eq!(printable(b"\x1b[0;1;31mred\x1b[0m\tx\r\n"), "red\tx");
        assert_eq!(printable(b"\x1b]0;title\x07\x1b[2"), "\\x1b]0;title\\x07\\x1b[2");
        assert_eq!(printable("a\u{9b}b\rc".as_bytes()), "a\\x9bb\\x0dc");
    }
}

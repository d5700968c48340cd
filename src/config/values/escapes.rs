//! The escapes of C, as systemd reads them (systemd.syntax(7)).

use crate::error::{Error, Result};
use std::str::Chars;

/// Replaces the escapes of a text: `\n` and other letters, `\xHH`, `\NNN`, `\uHHHH` and `\UHHHHHHHH`.
///
/// # Errors
/// An unknown or incomplete escape. The error does not contain the text, which may be secret.
pub(crate) fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter == '\\' {
            escape(&mut letters, &mut bytes).ok_or_else(|| {
                Error::new("the value has an invalid escape")
                    .with_hint("write '\\\\' for a backslash; systemd.syntax(7) lists the escapes")
            })?;
        } else {
            push(letter, &mut bytes);
        }
    }
    Ok(bytes)
}

fn push(letter: char, bytes: &mut Vec<u8>) {
    bytes.extend(letter.encode_utf8(&mut [0; 4]).bytes());
}

/// Appends the bytes of the escape after a backslash.
fn escape(letters: &mut Chars<'_>, bytes: &mut Vec<u8>) -> Option<()> {
    let byte = match letters.next()? {
        'a' => 7,
        'b' => 8,
        't' => b'\t',
        'n' => b'\n',
        'v' => 11,
        'f' => 12,
        'r' => b'\r',
        's' => b' ',
        same @ ('\\' | '"' | '\'') => u8::try_from(same).ok()?,
        'x' => u8::try_from(number(letters, "", 2, 16)?).ok()?,
        first @ '0'..='7' => u8::try_from(number(letters, first.encode_utf8(&mut [0; 4]), 3, 8)?).ok()?,
        wide @ ('u' | 'U') => {
            let digits = if wide == 'u' { 4 } else { 8 };
            push(char::from_u32(number(letters, "", digits, 16)?)?, bytes);
            return Some(());
        }
        _ => return None,
    };
    bytes.push(byte);
    Some(())
}

/// Returns a number of exactly `count` digits, of which `first` are read already.
fn number(letters: &mut Chars<'_>, first: &str, count: usize, radix: u32) -> Option<u32> {
    let digits: String = first.chars().chain(letters.take(count - first.len())).collect();
    let is_number = digits.len() == count && digits.chars().all(|digit| digit.is_digit(radix));
    u32::from_str_radix(&digits, radix).ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_those_of_systemd() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("a\\nb\\t\\\\", b"a\nb\t\\"),
            ("\\x00\\xffz", b"\0\xffz"),
            ("\\1013", b"A3"),
            ("\\s\\\"\\'", b" \"'"),
            ("\\u00e4ö", "äö".as_bytes()),
            ("\\U0001f600", "😀".as_bytes()),
        ] {
            assert_eq!(unescape(text).unwrap(), bytes, "{text}");
        }
        for bad in
            ["\\", "\\q", "\\x1", "\\x+1", "\\xgg", "\\12", "\\777", "\\ud800", "\\U00110000", "\\x\u{e4}"]
        {
            let error = unescape(&format!("secret{bad}")).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}

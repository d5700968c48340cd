//! Access lists (acl(5)) as text, which archives have, and as the attributes of the kernel
//! (`linux/posix_acl_xattr.h`). Called by `extensions` and `writer`.

/// The version of the attribute.
const VERSION: u32 = 2;
/// The id of an entry without one.
const NO_ID: u32 = u32::MAX;
/// The tags of the kernel, with the words of the text: for the owner, and for others by id.
const TAGS: [(u16, &str, bool); 6] = [
    (0x01, "user", false),
    (0x02, "user", true),
    (0x04, "group", false),
    (0x08, "group", true),
    (0x10, "mask", false),
    (0x20, "other", false),
];

/// Returns the attribute for a text: entries separated by commas or newlines, each a tag, an id or a name, and
/// permissions; star adds the id after a name. `None` if an entry is invalid or has a name without its id.
pub(super) fn to_attribute(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut entries = Vec::new();
    for line in text.split([',', '\n']).map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(':').collect();
        let [tag, qualifier, permissions, ref rest @ ..] = words[..] else { return None };
        let id = match (qualifier, rest) {
            ("", _) => None,
            (_, [id]) => Some(id.trim().parse::<u32>().ok()?),
            (id, []) => Some(id.parse::<u32>().ok()?),
            _ => return None,
        };
        let tag = if matches!(tag, "u" | "g" | "m" | "o") { long(tag) } else { tag };
        let (number, ..) = TAGS.iter().find(|(_, word, has_id)| *word == tag && *has_id == id.is_some())?;
        let permissions = permissions.split_whitespace().next()?;
        entries.push((*number, id.unwrap_or(NO_ID), bits(permissions)?));
    }
    // The order of the kernel.
    entries.sort_unstable();
    let mut attribute = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        attribute.extend_from_slice(&tag.to_le_bytes());
        attribute.extend_from_slice(&permissions.to_le_bytes());
        attribute.extend_from_slice(&id.to_le_bytes());
    }
    (attribute.len() > 4).then_some(attribute)
}

fn long(tag: &str) -> &'static str {
    match tag {
        "u" => "user",
        "g" => "group",
        "m" => "mask",
        _ => "other",
    }
}

fn bits(permissions: &str) -> Option<u16> {
    permissions.chars().try_fold(0, |bits, letter| {
        let bit = match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return None,
        };
        Some(bits | bit)
    })
}

/// Returns the text for an attribute, with ids. `None` if the attribute is invalid.
pub(super) fn to_text(attribute: &[u8]) -> Option<String> {
    let (version, entries) = attribute.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION || entries.len() % 8 != 0 {
        return None;
    }
    let entry = |entry: &[u8]| {
        let [t0, t1, p0, p1, id @ ..] = entry else { return None };
        let (tag, permissions) = (u16::from_le_bytes([*t0, *t1]), u16::from_le_bytes([*p0, *p1]));
        let (_, word, has_id) = TAGS.iter().find(|(number, ..)| *number == tag)?;
        let id = if *has_id { u32::from_le_bytes(id.try_into().ok()?).to_string() } else { String::new() };
        let letter = |bit: u16, letter| if permissions & bit != 0 { letter } else { '-' };
        Some(format!("{word}:{id}:{}{}{}", letter(4, 'r'), letter(2, 'w'), letter(1, 'x')))
    };
    let lines: Vec<String> = entries.chunks_exact(8).map(entry).collect::<Option<_>>()?;
    Some(lines.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_converted_both_ways() {
        let text = "user::rwx,user:1000:r-x,group::r--,group:7:---,mask::rwx,other::--x";
        let attribute = to_attribute(text.as_bytes()).unwrap();
        assert_eq!(attribute.len(), 4 + 6 * 8);
        assert_eq!(to_text(&attribute).unwrap(), text);
        assert_eq!(
            to_attribute(b"g::r--\nu::rwx\no::--x\nm::rwx\nuser:lisa:r-x:1000\ngroup:x:---:7\n"),
            Some(attribute)
        );
    }

    #[test]
    fn names_without_ids_are_no_list() {
        for text in ["user:lisa:rwx", "user::rwz", "user::", "user", "", "mask:5:rwx", "user:lisa:rwx:x"] {
            assert_eq!(to_attribute(text.as_bytes()), None, "{text}");
        }
        assert_eq!(to_text(&[2, 0, 0, 0, 1]), None);
    }
}

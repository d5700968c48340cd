//! Parses the source for the architecture rules: its files, and the paths used in their code.

use std::path::{Path, PathBuf};

/// A source file: its path below `src`, its text, and its code without comments and string contents.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) raw: String,
    pub(crate) code: String,
}

impl Source {
    /// Returns the stage of the file: the first component of its path.
    pub(crate) fn stage(&self) -> String {
        let first = self.path.iter().next().unwrap().to_string_lossy();
        first.trim_end_matches(".rs").to_owned()
    }

    /// Returns the code without its unit tests.
    pub(crate) fn without_tests(&self) -> &str {
        if self.path.ends_with("tests.rs") {
            return "";
        }
        self.code.split("#[cfg(test)]\nmod tests {").next().unwrap()
    }
}

pub(crate) fn sources() -> Vec<Source> {
    sources_of("src")
}

/// Returns the files of a directory of the repository.
pub(crate) fn sources_of(directory: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut sources = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let raw = std::fs::read_to_string(&path).unwrap();
                let code = code(&raw);
                sources.push(Source { path: path.strip_prefix(&root).unwrap().to_owned(), raw, code });
            }
        }
    }
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(sources.len() > 50, "the source is not where it was");
    sources
}

/// Returns Rust text without comments and with empty strings. Supports the syntax used in this crate: `//`
/// comments, strings with escapes, raw strings, character literals.
pub(crate) fn code(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let raw_string = rest.strip_prefix("r#\"").filter(|_| !code.ends_with(is_of_word));
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if let Some(inside) = raw_string {
            code.push_str("\"\"");
            rest = &inside[inside.find("\"#").unwrap() + 2..];
        } else if letter == '"' {
            code.push_str("\"\"");
            rest = after_string(&rest[1..]);
        } else if rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'') && letter == '\'' {
            let length = rest.char_indices().skip(2).find(|(_, c)| *c == '\'').unwrap().0;
            rest = &rest[length + 1..];
        } else {
            code.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    code
}

/// Returns the text after the end of a string literal; `text` begins after its opening quote.
pub(crate) fn after_string(text: &str) -> &str {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return &text[at + 1..],
            _ => escaped = false,
        }
    }
    ""
}

pub(crate) fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Returns the positions of the whole word `word` in `code`.
pub(crate) fn words<'c>(code: &'c str, word: &'c str) -> impl Iterator<Item = usize> + 'c {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        !code[..*at].ends_with(is_of_word) && !code[at + word.len()..].starts_with(is_of_word)
    })
}

/// Returns all paths below `root::` in `code`, with the groups of `use` expanded.
pub(crate) fn named(code: &str, root: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for at in words(code, root) {
        // A path from another root may have a component of this name.
        let is_inner = code[..at].trim_end().ends_with("::");
        if let Some(rest) = code[at + root.len()..].strip_prefix("::").filter(|_| !is_inner) {
            leaves("", rest, &mut paths);
        }
    }
    paths
}

/// Parses one branch of a `use` tree into `paths`; returns the remaining text.
pub(crate) fn leaves<'c>(prefix: &str, text: &'c str, paths: &mut Vec<String>) -> &'c str {
    let text = text.trim_start();
    if let Some(mut inside) = text.strip_prefix('{') {
        loop {
            inside = inside.trim_start().trim_start_matches(',').trim_start();
            if let Some(rest) = inside.strip_prefix('}') {
                return rest;
            }
            inside = leaves(prefix, inside, paths);
        }
    }
    let length = text.find(|letter| !is_of_word(letter) && letter != '*').unwrap_or(text.len());
    let (part, rest) = text.split_at(length);
    assert!(!part.is_empty(), "cannot read the path '{prefix}' before {:?}", text.chars().take(40));
    let path = match (prefix, part) {
        ("", part) => part.to_owned(),
        (prefix, "self") => prefix.to_owned(),
        (prefix, part) => format!("{prefix}::{part}"),
    };
    match rest.strip_prefix("::") {
        Some(rest) if rest.starts_with('<') => {
            paths.push(path);
            rest
        }
        Some(rest) => leaves(&path, rest, paths),
        None => {
            paths.push(path);
            // `as name` of a branch.
            match rest.trim_start().strip_prefix("as ") {
                Some(renamed) => renamed.trim_start().trim_start_matches(is_of_word),
                None => rest,
            }
        }
    }
}

/// Whether `path` is equal to `opened` or below it.
pub(crate) fn lies_in(path: &str, opened: &str) -> bool {
    path.strip_prefix(opened).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Tests the parser itself: a rule without input always holds.
#[test]
fn uses_are_found() {
    let text = "use crate::{a::{b, c as d, self}, e};\n// crate::comment\nlet x = \"crate::string\"; \
                let y = 'c'; crate::f::g::<T>(); pub(crate) use other::crate::h; '\\''; crate::i";
    let found = named(&code(text), "crate");
    assert_eq!(found, ["a::b", "a::c", "a", "e", "f::g", "i"].map(str::to_owned));
    assert!(lies_in("a::b", "a") && !lies_in("ab", "a"));
}

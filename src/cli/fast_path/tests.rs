//! Compares the tables with the definition of clap, argument by argument, and the results of generated
//! command lines with the results of clap.

use super::*;
use crate::cli::arguments::WaitFor;
use crate::machine::name::Name;
use clap::{Arg, ArgAction, Command, CommandFactory, FromArgMatches};
use std::any::TypeId;
use std::os::unix::ffi::OsStringExt;

const VERBS: [&str; 7] = ["run", "exec", "launch", BUILD_RUN, "start", "stop", "restart"];

/// Values, of which some are invalid for some arguments.
const VALUES: [&[u8]; 20] = [
    b"x",
    b"",
    b"-",
    b"--",
    b"-v",
    b"-1",
    b"--quiet",
    b"a=b",
    b"=",
    b"=x",
    b"yes",
    b"NO",
    b"maybe",
    b"ready",
    b"Ready",
    b"a b",
    b"a.b",
    "é".as_bytes(),
    b"\xff",
    b"a\xff",
];

/// Positional arguments; options are inserted at every place.
const POSITIONAL: [&str; 9] =
    ["", "a", "a sh", "a sh -c --quiet", "-- a sh", "a -- sh", "a sh --", "a -- --", "a/b sh"];

/// The properties of an argument on which parsing depends.
#[derive(Debug, PartialEq)]
struct Properties {
    long: Vec<String>,
    short: Vec<char>,
    index: Option<usize>,
    action: String,
    values: (usize, usize),
    value_type: &'static str,
    requires_equals: bool,
    takes_all_words: bool,
}

impl Properties {
    /// Returns the properties of an argument of clap.
    fn of_argument(arg: &Arg) -> Self {
        let types = [
            ("bool", TypeId::of::<bool>()),
            ("text", TypeId::of::<String>()),
            ("path", TypeId::of::<PathBuf>()),
            ("name", TypeId::of::<Name>()),
            ("word", TypeId::of::<OsString>()),
            ("event", TypeId::of::<WaitFor>()),
        ];
        let value_type = arg.get_value_parser().type_id();
        let count = arg.get_num_args().unwrap();
        let aliases = arg.get_all_aliases().unwrap_or_default();
        let short_aliases = arg.get_all_short_aliases().unwrap_or_default();
        Self {
            long: arg.get_long().into_iter().chain(aliases).map(str::to_owned).collect(),
            short: arg.get_short().into_iter().chain(short_aliases).collect(),
            index: arg.get_index(),
            action: format!("{:?}", arg.get_action()),
            values: (count.min_values(), count.max_values()),
            value_type: types.iter().find(|(_, id)| value_type == *id).map_or("unknown", |(name, _)| name),
            requires_equals: arg.is_require_equals_set(),
            takes_all_words: arg.is_trailing_var_arg_set(),
        }
    }

    /// Returns the properties of a row after a number of positional arguments.
    fn of_row(row: &ArgumentRow<'_>, positional: usize) -> Self {
        let (action, values, value_type) = match row.slot {
            Slot::Flag(_) => ("SetTrue", (0, 0), "bool"),
            Slot::Text(_) => ("Set", (1, 1), "text"),
            Slot::TextAfterEquals(..) => ("Set", (0, 1), "text"),
            Slot::Texts(_) => ("Append", (1, 1), "text"),
            Slot::Path(_) => ("Set", (1, 1), "path"),
            Slot::Boolean(..) => ("Set", (1, 1), "bool"),
            Slot::Word(_) => ("Set", (1, 1), "event"),
            Slot::Name(_) => ("Set", (1, 1), "name"),
            Slot::Names(_) => ("Append", (1, usize::MAX), "name"),
            Slot::Command(_) => ("Append", (1, usize::MAX), "word"),
        };
        Self {
            long: row.long.into_iter().map(str::to_owned).collect(),
            short: row.short.into_iter().map(char::from).collect(),
            index: (row.long.is_none() && row.short.is_none()).then_some(positional + 1),
            action: action.to_owned(),
            values,
            value_type,
            requires_equals: matches!(row.slot, Slot::TextAfterEquals(..)),
            takes_all_words: matches!(row.slot, Slot::Command(_)),
        }
    }
}

/// Returns the properties of all rows of a verb.
fn rows(verb: &str) -> Vec<Properties> {
    let (mut root, mut common) = (None, Common::default());
    let mut rows: Vec<Properties> = Vec::new();
    read_verb(verb, &mut |table| {
        for row in &with_common(table, &mut root, &mut common) {
            let positional = rows.iter().filter(|row| row.index.is_some()).count();
            rows.push(Properties::of_row(row, positional));
        }
        None
    });
    rows
}

/// Returns the complete definition.
fn definition() -> Command {
    let mut definition = Cli::command();
    definition.build();
    definition
}

/// Returns the arguments of a verb, without `--help`.
fn arguments(definition: &Command, verb: &str) -> Vec<Arg> {
    let is_help = |arg: &&Arg| matches!(arg.get_action(), ArgAction::Help);
    let mut verbs = verb.split(' ');
    let first = definition.find_subcommand(verbs.next().unwrap()).unwrap();
    let verb = verbs.fold(first, |verb, action| verb.find_subcommand(action).unwrap());
    verb.get_arguments().filter(|arg| !is_help(arg)).cloned().collect()
}

#[test]
fn tables_equal_the_definition_of_clap() {
    let definition = definition();
    for verb in VERBS {
        let rows = rows(verb);
        let arguments: Vec<Properties> =
            arguments(&definition, verb).iter().map(Properties::of_argument).collect();
        for argument in &arguments {
            assert!(
                rows.contains(argument),
                "this argument of '{verb}' has no row: change the table in src/cli/verb/{verb}.rs, \
                 src/cli/arguments.rs or src/cli/fast_path.rs\n{argument:#?}"
            );
        }
        for row in &rows {
            assert!(arguments.contains(row), "this row of '{verb}' is not an argument\n{row:#?}");
        }
        assert_eq!(rows.len(), arguments.len(), "two rows of '{verb}' are equal");
    }
}

/// Compares results with the results of clap.
struct Comparison {
    definition: Command,
    accepted: usize,
    rejected: usize,
}

impl Comparison {
    fn new() -> Self {
        Self { definition: definition(), accepted: 0, rejected: 0 }
    }

    /// Compares one command line. It is accepted if, and only if, clap accepts it.
    fn compare(&mut self, verb: &str, words: &[OsString]) {
        let start = split(&format!("coracle {verb}"));
        let line = [&start[..], words].concat();
        let matches = self.definition.try_get_matches_from_mut(&line);
        let expected = matches.and_then(|matches| Cli::from_arg_matches(&matches)).ok();
        let count = if expected.is_some() { &mut self.accepted } else { &mut self.rejected };
        *count += 1;
        assert_eq!(format!("{:?}", parse(&line)), format!("{expected:?}"), "{line:?}");
    }

    /// Compares command lines with an option before, between and after positional arguments.
    fn compare_at_all_places(&mut self, verb: &str, option: &[OsString]) {
        for positional in POSITIONAL {
            let words = split(positional);
            for at in 0..=words.len() {
                self.compare(verb, &[&words[..at], option, &words[at..]].concat());
            }
        }
    }

    /// Fails if clap accepted or rejected nearly all command lines.
    fn finish(self) {
        let fewer = self.accepted.min(self.rejected);
        assert!(fewer > (self.accepted + self.rejected) / 100, "{} {}", self.accepted, self.rejected);
    }
}

fn split(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn join(parts: &[&[u8]]) -> OsString {
    OsString::from_vec(parts.concat())
}

/// Returns the spellings of an argument with a value, and misspellings.
fn spellings(arg: &Arg, value: &[u8]) -> Vec<Vec<OsString>> {
    let mut spellings = Vec::new();
    if let Some(long) = arg.get_long().map(str::as_bytes) {
        let abbreviation = &long[..long.len() - 1];
        spellings.extend([
            vec![join(&[b"--", long, b"=", value])],
            vec![join(&[b"--", long]), join(&[value])],
            vec![join(&[b"--", long])],
            vec![join(&[b"-", long])],
            vec![join(&[b"--", abbreviation]), join(&[value])],
        ]);
    }
    if let Some(letter) = arg.get_short().map(String::from) {
        let letter = letter.as_bytes();
        spellings.extend([
            vec![join(&[b"-", letter, value])],
            vec![join(&[b"-", letter, b"=", value])],
            vec![join(&[b"-", letter]), join(&[value])],
            vec![join(&[b"-", letter])],
            vec![join(&[b"--", letter])],
        ]);
    }
    if arg.is_positional() {
        spellings.push(vec![join(&[value])]);
        spellings.push(vec![join(&[b"--"]), join(&[value])]);
    }
    spellings
}

/// Returns an option in one spelling, with a value if it requires one.
fn option(arg: &Arg) -> Vec<OsString> {
    let name = match (arg.get_long(), arg.get_short()) {
        (Some(long), _) => format!("--{long}"),
        (None, Some(short)) => format!("-{short}"),
        (None, None) => return Vec::new(),
    };
    let requires_value = arg.get_num_args().unwrap().min_values() > 0;
    let value = requires_value.then(|| OsString::from("yes"));
    std::iter::once(OsString::from(name)).chain(value).collect()
}

#[test]
fn every_value_of_an_option_is_parsed_like_clap() {
    let mut comparison = Comparison::new();
    for verb in VERBS {
        for arg in arguments(&comparison.definition, verb) {
            for spelling in VALUES.iter().flat_map(|value| spellings(&arg, value)) {
                for positional in ["", "a", "a sh"] {
                    comparison.compare(verb, &[spelling.clone(), split(positional)].concat());
                }
            }
        }
    }
    comparison.finish();
}

#[test]
fn options_are_parsed_like_clap_at_all_places() {
    let mut comparison = Comparison::new();
    for verb in VERBS {
        for arg in arguments(&comparison.definition, verb) {
            comparison.compare_at_all_places(verb, &option(&arg));
            for spelling in spellings(&arg, b"x") {
                comparison.compare_at_all_places(verb, &spelling);
            }
        }
    }
    comparison.finish();
}

#[test]
fn every_pair_of_options_is_parsed_like_clap() {
    let mut comparison = Comparison::new();
    for verb in VERBS {
        let options: Vec<_> = arguments(&comparison.definition, verb).iter().map(option).collect();
        for (one, other) in options.iter().flat_map(|one| options.iter().map(move |other| (one, other))) {
            for positional in ["a", "a sh"] {
                comparison.compare(verb, &[one.clone(), other.clone(), split(positional)].concat());
            }
        }
    }
    comparison.finish();
}

#[test]
fn of_repeated_options_the_last_one_counts_like_in_clap() {
    let mut comparison = Comparison::new();
    for verb in VERBS {
        for arg in arguments(&comparison.definition, verb) {
            for (first, last) in [("yes", "no"), ("1", "2"), ("a", "b")] {
                let first = spellings(&arg, first.as_bytes());
                for (first, last) in first.iter().zip(spellings(&arg, last.as_bytes())) {
                    let line = [first.clone(), last, split("a sh")].concat();
                    comparison.compare(verb, &line);
                }
            }
        }
    }
    let accepted = comparison.accepted;
    assert!(accepted > 300, "{accepted}");
    comparison.finish();
}

#[test]
fn the_last_one_of_repeated_or_opposite_options_counts() {
    let read = |line: &str| {
        let cli = parse(&split(&format!("coracle {line}"))).unwrap_or_else(|| panic!("{line}"));
        format!("{:?}", cli.verb)
    };
    for (line, same) in [
        ("run -D a -D b -q -q", "run -q -D b"),
        ("run --console=pipe --console=read-only", "run --console=read-only"),
        ("run --private-users=pick -U --private-users=no", "run --private-users=no"),
        ("run --private-users=no --private-users-ownership=off -U", "run -U --private-users-ownership=off"),
        ("run --console=passive -P", "run -P"),
        ("run -P --console=passive", "run --console=passive"),
        (
            "run --bind=a --bind=b --no-new-privileges=no --no-new-privileges=yes",
            "run --bind=a --bind=b --no-new-privileges=yes",
        ),
        ("exec -t -T -u a -u b m sh", "exec -T -u b m sh"),
        ("exec -T -t m sh", "exec -t m sh"),
    ] {
        assert_eq!(read(line), read(same), "{line}");
    }
}

#[test]
fn combined_letters_are_parsed_like_clap() {
    let mut comparison = Comparison::new();
    for verb in VERBS {
        let args = arguments(&comparison.definition, verb);
        let letters: Vec<char> = args.iter().filter_map(Arg::get_short).chain(['h', '=']).collect();
        for pair in letters.iter().flat_map(|one| letters.iter().map(move |other| format!("-{one}{other}"))) {
            for rest in ["", " a", " a sh", "x a sh", "=x a sh"] {
                comparison.compare(verb, &split(&format!("{pair}{rest}")));
            }
            for third in &letters {
                comparison.compare(verb, &split(&format!("{pair}{third} a sh")));
            }
        }
    }
    comparison.finish();
}

#[test]
fn random_lines_are_parsed_like_clap() {
    let mut comparison = Comparison::new();
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for verb in VERBS {
        let args = arguments(&comparison.definition, verb);
        for _ in 0..2000 {
            let mut words = Vec::new();
            for _ in 0..random(7) {
                let (arg, value) = (&args[random(args.len())], VALUES[random(VALUES.len())]);
                let spellings = spellings(arg, value);
                match random(8) {
                    0 => words.push(join(&[value])),
                    1 => words.extend(spellings[random(spellings.len())].clone()),
                    2 => words.push("a".into()),
                    _ => words.extend(option(arg)),
                }
            }
            words.extend(split(POSITIONAL[random(POSITIONAL.len())]));
            comparison.compare(verb, &words);
        }
    }
    comparison.finish();
}

#[test]
fn help_and_other_verbs_are_left_to_clap() {
    for line in [
        "",
        "--debug run",
        "list",
        "build",
        "build list",
        "build run --help",
        "run --help",
        "run -h",
        "exec a --help",
        "launch --version",
    ] {
        assert!(parse(&split(&format!("coracle {line}"))).is_none(), "{line}");
    }
    assert!(parse(&[]).is_none());
}

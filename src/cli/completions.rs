//! `coracle completions SHELL`: what clap makes of the command line's definition, and on top of it the
//! names of machines where a verb takes one. A shell asks `coracle names` for these when it needs them.

use super::{Cli, Completions, output};
use crate::error::Result;
use clap::{Command, CommandFactory};
use clap_complete::Shell;

/// Prints the completions for one shell.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(wanted: &Completions) -> Result<()> {
    output::text(&script(wanted.shell))
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "coracle", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script + &bash(),
        Shell::Fish => script + &fish(),
        Shell::Zsh => zsh(&script),
        _ => script,
    }
}

/// The verbs that take a machine's name.
fn verbs() -> Vec<String> {
    let command = Cli::command();
    let takes_name = |verb: &&Command| {
        let first = verb.get_positionals().next();
        first.and_then(|first| first.get_value_names()?.first()).is_some_and(|name| name == "NAME")
    };
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set()).filter(takes_name);
    verbs.map(|verb| verb.get_name().to_owned()).collect()
}

/// The options whose next word is a value, each after its verb, in quotes.
fn valued() -> Vec<String> {
    let mut valued = vec!["*' --root'".to_owned()];
    for verb in Cli::command().get_subcommands() {
        for option in verb.get_opts() {
            let long = option.get_long().map(|long| format!("'{} --{long}'", verb.get_name()));
            let short = option.get_short().map(|short| format!("'{} -{short}'", verb.get_name()));
            valued.extend(long.into_iter().chain(short).filter(|_| option.get_action().takes_values()));
        }
    }
    valued
}

/// A function in front of clap's: it adds the names where a word is no option, and none follows one
/// that wants a value.
fn bash() -> String {
    format!(
        r#"
_coracle_machines() {{
    local cur="${{COMP_WORDS[COMP_CWORD]}}" word verb="" at
    _coracle "$@"
    for ((at = 1; at < COMP_CWORD; at++)); do
        word="${{COMP_WORDS[at]}}"
        case "$word" in
            --root) ((at++)) ;;
            --) return ;;
            -*) ;;
            *) verb="$word"; break ;;
        esac
    done
    case "$verb" in
        {verbs})
            [[ "$cur" == -* ]] && return
            case "$verb ${{COMP_WORDS[COMP_CWORD-1]}}" in
                {valued}) return ;;
            esac
            COMPREPLY=($(compgen -W "$(coracle names 2>/dev/null)" -- "$cur"))
            ;;
    esac
}}
complete -F _coracle_machines -o bashdefault -o default coracle
"#,
        verbs = verbs().join("|"),
        valued = valued().join("|")
    )
}

fn fish() -> String {
    format!(
        "\ncomplete -c coracle -n '__fish_seen_subcommand_from {}' -f -a '(coracle names 2>/dev/null)'\n",
        verbs().join(" ")
    )
}

/// zsh's names every word; the machines' are completed by a function instead of as files.
fn zsh(script: &str) -> String {
    let by_name = |line: &str| {
        let is_name = line.contains(":name -- ") || line.contains("::names -- ");
        let is_name = is_name || line.contains("':name ") || line.contains("'*::names ");
        if is_name { line.replace(":_default'", ":_coracle_machines'") } else { line.to_owned() }
    };
    let function = "\n_coracle_machines() {\n    local -a names\n    names=(${(f)\"$(coracle names 2>/dev/null)\"})\n    compadd -a names\n}\n";
    let script: String = script.lines().map(|line| by_name(line) + "\n").collect();
    // clap's ends by calling itself where it is autoloaded: ours has to be known by then.
    match script.split_once("\n_coracle() {") {
        Some((before, after)) => format!("{before}\n{function}\n_coracle() {{{after}"),
        None => script,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_that_take_names_are_found() {
        let verbs = verbs();
        for verb in ["start", "exec", "logs", "doctor", "inspect", "top"] {
            assert!(verbs.iter().any(|known| known == verb), "{verb}");
        }
        assert!(!verbs.iter().any(|verb| verb == "list" || verb == "names"));
        let zsh = script(Shell::Zsh);
        assert!(zsh.matches(":_coracle_machines'").count() >= verbs.len() - 1, "{zsh}");
    }
}

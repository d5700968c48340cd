//! The description of a job's unit: the verb, the machines, and the client that has its streams. The next instance
//! of the service reads it. Used by `job`.

/// Returns the description of a unit.
pub(super) fn write(verb: &str, machines: &[String], client: Option<&str>) -> String {
    let machines = machines.iter().map(String::as_str);
    [verb].into_iter().chain(machines).chain(client).collect::<Vec<_>>().join(" ")
}

/// Returns the parts of a description. Names of connections begin with a colon, those of machines do not.
pub(super) fn read(text: &str) -> (String, Vec<String>, Option<String>) {
    let mut words = text.split_whitespace().map(str::to_owned);
    let verb = words.next().unwrap_or_default();
    let (mut clients, machines): (Vec<String>, Vec<String>) = words.partition(|word| word.starts_with(':'));
    (verb, machines, clients.pop())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_can_be_read() {
        let machines = ["web", "db"].map(str::to_owned);
        for client in [None, Some(":1.42")] {
            let parts = read(&write("exec", &machines, client));
            assert_eq!(parts, ("exec".to_owned(), machines.to_vec(), client.map(str::to_owned)));
        }
    }
}

//! The status text of a job, as its verb sends it to systemd. Used by `job`.

/// Splits a status text of the format `42% text`.
pub(super) fn progress(status: &str) -> Option<(u8, &str)> {
    let (percent, text) = status.split_once('%')?;
    let percent = percent.parse().ok().filter(|percent| *percent <= 100)?;
    Some((percent, text.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_texts_have_a_progress() {
        assert_eq!(progress("42% unpacking"), Some((42, "unpacking")));
        assert_eq!(progress("unpacking"), None);
        assert_eq!(progress("142% x"), None);
    }
}

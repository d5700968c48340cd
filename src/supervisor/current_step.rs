//! What a launch does at this moment, for the one kind of end that comes as no error: a library that panics, as tokio
//! does where the kernel refuses to wait for events. Called by `run` and `launch`. The process ends by it all the
//! same: what it made is undone from the record.

use crate::error::Error;
use std::sync::Mutex;

static STEP: Mutex<String> = Mutex::new(String::new());

/// Says which step begins.
pub fn set(step: String) {
    *STEP.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = step;
}

/// From now on a panic of this process is told as the failure of its step. Not one of a child: its messages take the
/// link.
pub fn report_panics(tell: impl Fn(&Error) + Send + Sync + 'static) {
    let ourselves = (rustix::process::getpid(), rustix::process::getppid());
    std::panic::set_hook(Box::new(move |panic| {
        if (rustix::process::getpid(), rustix::process::getppid()) == ourselves {
            let what = panic.payload_as_str().unwrap_or("it gave up");
            // Who panics may hold the lock.
            let step = STEP.try_lock().map(|step| step.clone()).unwrap_or_default();
            tell(&Error::new(what).context(format!("cannot {step}")));
        }
    }));
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_panic_is_told_with_its_step() {
        static TOLD: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
        let before = std::panic::take_hook();
        super::set("make the link".into());
        super::report_panics(|error| *TOLD.lock().unwrap() = error.to_string());
        let outcome = std::panic::catch_unwind(|| panic!("no more events"));
        std::panic::set_hook(before);
        assert!(outcome.is_err());
        assert_eq!(*TOLD.lock().unwrap(), "cannot make the link: no more events");
    }
}

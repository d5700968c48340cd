//! The current step of a launch, for failures that are panics: tokio panics if the kernel refuses an epoll
//! instance, for example. Called by `run` and `launch`. The process ends nevertheless; cleanup undoes its
//! work from the record.

use crate::error::Error;
use std::sync::Mutex;

static STEP: Mutex<String> = Mutex::new(String::new());

/// Sets the current step.
pub(crate) fn set(step: String) {
    *STEP.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = step;
}

/// Reports panics of this process as failures of the current step. Panics of children are excluded: children
/// report over their channel.
pub(crate) fn report_panics(report: impl Fn(&Error) + Send + Sync + 'static) {
    let ourselves = (rustix::process::getpid(), rustix::process::getppid());
    std::panic::set_hook(Box::new(move |panic| {
        if (rustix::process::getpid(), rustix::process::getppid()) == ourselves {
            let message = panic.payload_as_str().unwrap_or("internal error");
            // The panicking function may hold the lock.
            let step = STEP.try_lock().map(|step| step.clone()).unwrap_or_default();
            report(&Error::new(message).context(format!("cannot {step}")));
        }
    }));
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_panic_is_reported_with_its_step() {
        static REPORTED: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
        let before = std::panic::take_hook();
        super::set("create the network link".into());
        super::report_panics(|error| *REPORTED.lock().unwrap() = error.to_string());
        let outcome = std::panic::catch_unwind(|| panic!("no more events"));
        std::panic::set_hook(before);
        assert!(outcome.is_err());
        assert_eq!(*REPORTED.lock().unwrap(), "cannot create the network link: no more events");
    }
}

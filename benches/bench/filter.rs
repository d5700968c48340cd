//! The cost of a machine's system call filter: compilation, loading, and one filtered call. Called by `main`,
//! in the host.

use std::hint::black_box;
use std::time::Instant;

use coracle::plan::filter::{Policy, compile};
use coracle::sys::filter::install;

use super::table::{self, median, min, number};

const ROUNDS: usize = 200;
const CALLS: u32 = 200_000;

/// Prints the table.
pub fn all() {
    let policy = Policy::default();
    let program = compile(&policy).expect("the default filter");
    let build = measure(|| drop(black_box(compile(black_box(&policy)))));
    // A loaded filter stays for the lifetime of the thread: each round has its own thread.
    let load: Vec<f64> =
        (0..ROUNDS).map(|_| on_a_thread(|| once(|| install(&program).expect("load the filter")))).collect();
    let plain = on_a_thread(a_call);
    let filtered = on_a_thread(|| {
        install(&program).expect("load the filter");
        a_call()
    });
    let row = |name: &str, values: &[f64]| vec![name.to_owned(), number(median(values)), number(min(values))];
    let rows = [
        row("compile, µs", &build),
        row("load, µs", &load),
        row("getppid without, ns", &[plain]),
        row("getppid with, ns", &[filtered]),
    ];
    let title = format!("The system-call filter: {} instructions, {ROUNDS} rounds", program.len());
    table::print(&title, &["", "median", "min"], &rows);
}

/// Returns the duration of one call of a function, in microseconds.
fn once(mut what: impl FnMut()) -> f64 {
    let began = Instant::now();
    what();
    began.elapsed().as_secs_f64() * 1e6
}

fn measure(mut what: impl FnMut()) -> Vec<f64> {
    (0..ROUNDS).map(|_| once(&mut what)).collect()
}

/// Returns the duration of a system call without effect, in nanoseconds.
fn a_call() -> f64 {
    once(|| {
        for _ in 0..CALLS {
            let _ = black_box(rustix::process::getppid());
        }
    }) * 1e3
        / f64::from(CALLS)
}

fn on_a_thread(what: impl FnOnce() -> f64 + Send) -> f64 {
    std::thread::scope(|scope| scope.spawn(what).join().expect("a thread"))
}

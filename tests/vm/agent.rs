//! The virtual machine's end of its command channel, a virtio-serial port. Compiled by build.sh with rustc
//! alone, run by agent.service, spoken to by vm.py. One command at a time.
//!
//! Frames both ways: kind (one byte), length (u32, little endian), payload. To the agent: `?` hello, `E`
//! execute (NUL-separated arguments), `I` input, `i` end of input, `K` kill. From it: `H` hello, `O` standard
//! output, `R` standard error, `X` exit status (i32; 128+n for a signal, 127 when the command could not be
//! started).

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A longer frame is invalid.
const LONGEST: usize = 1 << 20;
/// Background processes of a command may hold its pipes for ever.
const DRAIN: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(10);

/// The running command: its process group and where its input goes. `None` is end of input.
type Current = Arc<Mutex<Option<(u32, Sender<Option<Vec<u8>>>)>>>;
type Port = Arc<Mutex<File>>;

fn main() {
    let name = std::env::args().nth(1).expect("usage: agent PORT-NAME");
    let device = find_port(&name);
    let mut input = OpenOptions::new().read(true).write(true).open(&device).expect("open the port");
    let output: Port = Arc::new(Mutex::new(input.try_clone().expect("duplicate the port")));
    let current = Current::default();
    loop {
        let mut head = [0; 5];
        read_full(&mut input, &mut head);
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        assert!(length <= LONGEST, "a frame of {length} bytes");
        let mut payload = vec![0; length];
        read_full(&mut input, &mut payload);
        match head[0] {
            b'?' => send(&output, b'H', b"coracle-test 1"),
            b'E' => execute(&payload, &output, &current),
            b'I' => feed(&current, Some(payload)),
            b'i' => feed(&current, None),
            b'K' => kill(&current),
            _ => {}
        }
    }
}

/// Waits for the port of that name to appear.
fn find_port(name: &str) -> String {
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let is_it = fs::read_to_string(entry.path().join("name")).is_ok_and(|text| text.trim() == name);
            let device = format!("/dev/{}", entry.file_name().to_string_lossy());
            if is_it && fs::metadata(&device).is_ok() {
                return device;
            }
        }
        thread::sleep(PAUSE);
    }
}

/// Zero bytes mean that the other end is not connected: wait.
fn read_full(port: &mut File, buffer: &mut [u8]) {
    let mut filled = 0;
    while filled < buffer.len() {
        match port.read(&mut buffer[filled..]) {
            Ok(more @ 1..) => filled += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => thread::sleep(PAUSE),
        }
    }
}

fn send(port: &Port, kind: u8, payload: &[u8]) {
    let mut frame = vec![kind];
    frame.extend_from_slice(&u32::try_from(payload.len()).unwrap_or_default().to_le_bytes());
    frame.extend_from_slice(payload);
    let mut port = port.lock().unwrap_or_else(PoisonError::into_inner);
    let mut done = 0;
    while done < frame.len() {
        match port.write(&frame[done..]) {
            Ok(more @ 1..) => done += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => thread::sleep(PAUSE),
        }
    }
}

fn execute(payload: &[u8], port: &Port, current: &Current) {
    let words: Vec<String> =
        payload.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let started = Command::new(&words[0])
        .args(&words[1..])
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
        .envs([("HOME", "/root"), ("LANG", "C.UTF-8"), ("SYSTEMD_PAGER", ""), ("SYSTEMD_COLORS", "0")])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    match started {
        Ok(child) => attend(child, port, current),
        Err(error) => {
            send(port, b'R', format!("agent: {}: {error}\n", words[0]).as_bytes());
            send(port, b'X', &127_i32.to_le_bytes());
        }
    }
}

/// Threads carry the command's streams and its end.
fn attend(mut child: Child, port: &Port, current: &Current) {
    let (sender, receiver) = mpsc::channel::<Option<Vec<u8>>>();
    *current.lock().unwrap_or_else(PoisonError::into_inner) = Some((child.id(), sender));
    let mut stdin = child.stdin.take();
    thread::spawn(move || {
        // Dropping it at the end of input closes the pipe.
        while let Ok(Some(bytes)) = receiver.recv() {
            if stdin.as_mut().is_some_and(|stdin| stdin.write_all(&bytes).is_err()) {
                stdin = None;
            }
        }
    });
    let (done, drained) = mpsc::channel();
    carry(child.stdout.take().expect("a pipe"), b'O', port.clone(), done.clone());
    carry(child.stderr.take().expect("a pipe"), b'R', port.clone(), done);
    let (port, current) = (port.clone(), current.clone());
    thread::spawn(move || {
        let status = child
            .wait()
            .map_or(126, |status| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()));
        let end = Instant::now() + DRAIN;
        for _ in 0..2 {
            let _ = drained.recv_timeout(end.saturating_duration_since(Instant::now()));
        }
        *current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        send(&port, b'X', &status.to_le_bytes());
    });
}

fn carry(mut stream: impl Read + Send + 'static, kind: u8, port: Port, done: Sender<()>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            send(&port, kind, &buffer[..length]);
        }
        let _ = done.send(());
    });
}

fn feed(current: &Current, bytes: Option<Vec<u8>>) {
    if let Some((_, sender)) = current.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        let _ = sender.send(bytes);
    }
}

fn kill(current: &Current) {
    if let Some((group, _)) = current.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{group}")]).status();
    }
}

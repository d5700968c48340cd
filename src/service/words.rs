//! The words of a job that other users must not read: a command and its environment may contain secrets, and
//! every user can read the properties and the processes of a unit. They are in a file without a name, which a
//! socket hands over together with the standard input that the socket stands for, and with the channel for the
//! result: for the report if that is another one, or for the exit status, which the job writes itself, also if the
//! service has ended meanwhile.

use super::report;
use crate::error::{Context, Error, Result};
use crate::sys::process;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::MemfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::ffi::OsString;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;

/// The verb of a job whose words are handed over.
pub const VERB: &str = "job";

/// Returns a file without a name that contains a text, for reading from its beginning.
///
/// # Errors
/// Any error of memfd_create(2) or write(2).
pub(super) fn file(text: &str) -> Result<OwnedFd> {
    let writing = || "cannot hand over the words of a job";
    let file = rustix::fs::memfd_create("coracle-words", MemfdFlags::CLOEXEC).context(writing)?;
    let mut file = File::from(file);
    file.write_all(text.as_bytes()).and_then(|()| file.rewind()).context(writing)?;
    Ok(file.into())
}

/// Returns the standard input of a job that receives `words` through it, then `stdin`, and the channel for its
/// report or exit status if it has one of its own.
///
/// # Errors
/// Any error of memfd_create(2), socketpair(2) or sendmsg(2).
pub(super) fn hand_over(words: &[String], stdin: OwnedFd, result: Option<OwnedFd>) -> Result<OwnedFd> {
    let handing = || "cannot hand over the words of a job";
    let file = file(&words.join("\0"))?;
    let (own, job) = UnixStream::pair().context(handing)?;
    let mut descriptors = vec![file.as_fd(), stdin.as_fd()];
    descriptors.extend(result.as_ref().map(AsFd::as_fd));
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(&own, &[IoSlice::new(b"\n")], &mut control, SendFlags::NOSIGNAL).context(handing)?;
    Ok(job.into())
}

/// The arguments of a job, and the pipe that receives its exit status if its caller has one.
#[derive(Debug)]
pub struct Received {
    /// The name of the program, and the words handed over.
    pub arguments: Vec<OsString>,
    done: Option<OwnedFd>,
}

impl Received {
    /// Passes the exit status to the caller, and returns it.
    #[must_use]
    pub fn end(self, status: u8) -> u8 {
        if let Some(done) = self.done {
            // The caller may have closed its end.
            let _ = rustix::io::write(&done, format!("{status}\n").as_bytes());
        }
        status
    }
}

/// Receives the arguments of a job. Its standard input becomes what it is meant to be.
///
/// # Errors
/// Standard input is no socket of the service.
pub fn receive(program: Option<OsString>) -> Result<Received> {
    // To be protected later, the program would be executed again, with nothing left to receive.
    process::run_from_read_only()?;
    let (words, stdin, result) = receive_from(rustix::stdio::stdin())?;
    rustix::stdio::dup2_stdin(&stdin).context(|| "cannot replace standard input")?;
    let mut options = words.iter().take_while(|word| *word != "--");
    let (reporter, done) =
        if options.any(|word| word == "--report") { (result, None) } else { (None, result) };
    reporter.into_iter().for_each(report::set_channel);
    Ok(Received { arguments: program.into_iter().chain(words).collect(), done })
}

/// Receives the words, standard input, and the channel for the report or the exit status.
fn receive_from(socket: impl AsFd) -> Result<(Vec<OsString>, OwnedFd, Option<OwnedFd>)> {
    let receiving = || "cannot receive the words of a job";
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC).context(receiving)?;
    let mut descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    let (Some(file), Some(stdin)) = (descriptors.next(), descriptors.next()) else {
        return Err(Error::new("received no words of a job"));
    };
    let (mut file, mut text) = (File::from(file), Vec::new());
    file.read_to_end(&mut text).context(receiving)?;
    let words = text.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    Ok((words, stdin, descriptors.next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_standard_input_arrive() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let words = ["exec", "--setenv=TOKEN=a b", "", "x\ny"].map(str::to_owned);
        let (mut status, done) = std::io::pipe().unwrap();
        let socket = hand_over(&words, reader.into(), Some(done.into())).unwrap();
        writer.write_all(b"input").unwrap();
        drop(writer);
        let (received, stdin, done) = receive_from(&socket).unwrap();
        assert_eq!(received, words.map(OsString::from));
        let mut input = String::new();
        File::from(stdin).read_to_string(&mut input).unwrap();
        assert_eq!(input, "input");
        assert_eq!(Received { arguments: received, done }.end(7), 7);
        let mut text = String::new();
        status.read_to_string(&mut text).unwrap();
        assert_eq!(text, "7\n");
        // There is only one hand-over.
        assert!(receive_from(&socket).is_err());
    }
}

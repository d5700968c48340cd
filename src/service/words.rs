//! The words of a job that other users must not read: a command and its environment may contain secrets, and
//! every user can read the properties and the processes of a unit. They are in a file without a name, which a
//! socket hands over together with the standard input that the socket stands for.

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

/// Returns the standard input of a job that receives `words` and then `stdin` through it.
///
/// # Errors
/// Any error of memfd_create(2), socketpair(2) or sendmsg(2).
pub(super) fn hand_over(words: &[String], stdin: OwnedFd) -> Result<OwnedFd> {
    let handing = || "cannot hand over the words of a job";
    let file = rustix::fs::memfd_create("coracle-words", MemfdFlags::CLOEXEC).context(handing)?;
    let mut file = File::from(file);
    file.write_all(words.join("\0").as_bytes()).context(handing)?;
    let (own, job) = UnixStream::pair().context(handing)?;
    let descriptors = [file.as_fd(), stdin.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(&own, &[IoSlice::new(b"\n")], &mut control, SendFlags::NOSIGNAL).context(handing)?;
    Ok(job.into())
}

/// Returns the arguments of a job: the name of the program, and the words handed over. Its standard input
/// becomes what it is meant to be.
///
/// # Errors
/// Standard input is no socket of the service.
pub fn receive(program: Option<OsString>) -> Result<Vec<OsString>> {
    // To be protected later, the program would be executed again, with nothing left to receive.
    process::run_from_read_only()?;
    let (words, stdin) = receive_from(rustix::stdio::stdin())?;
    rustix::stdio::dup2_stdin(&stdin).context(|| "cannot replace standard input")?;
    Ok(program.into_iter().chain(words).collect())
}

fn receive_from(socket: impl AsFd) -> Result<(Vec<OsString>, OwnedFd)> {
    let receiving = || "cannot receive the words of a job";
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
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
    file.rewind().context(receiving)?;
    file.read_to_end(&mut text).context(receiving)?;
    Ok((text.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect(), stdin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_standard_input_arrive() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let words = ["exec", "--setenv=TOKEN=a b", "", "x\ny"].map(str::to_owned);
        let socket = hand_over(&words, reader.into()).unwrap();
        writer.write_all(b"input").unwrap();
        drop(writer);
        let (received, stdin) = receive_from(&socket).unwrap();
        assert_eq!(received, words.map(OsString::from));
        let mut input = String::new();
        File::from(stdin).read_to_string(&mut input).unwrap();
        assert_eq!(input, "input");
        // There is only one hand-over.
        assert!(receive_from(&socket).is_err());
    }
}

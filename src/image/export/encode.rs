//! The compression of an export: gzip by this process, zstd and xz by their programs. Equal input has equal
//! output: no names, no times, and no dependence on the number of processors. Called by `export`.

use crate::error::{Context, Error, Result};
use crate::image::import::Compression;
use flate2::GzBuilder;
use flate2::write::GzEncoder;
use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, Stdio};

/// The encoder of a stream.
pub(super) enum Encoder {
    /// No compression.
    Plain(File),
    /// This process.
    Gzip(GzEncoder<File>),
    /// A program with the file as its output.
    Program(&'static str, RunningProgram),
}

/// A running program. It is killed when it is dropped before its end.
pub(super) struct RunningProgram(Child);

impl Drop for RunningProgram {
    fn drop(&mut self) {
        // Fails if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Encoder {
    /// Creates an encoder that writes to a file.
    ///
    /// # Errors
    /// A program that is not installed.
    pub(super) fn new(to: File, compression: Compression) -> Result<Self> {
        match compression {
            Compression::Gzip => {
                Ok(Self::Gzip(GzBuilder::new().mtime(0).write(to, flate2::Compression::default())))
            }
            // Several threads have the same output, whatever their number; a single one has another.
            Compression::Zstd => Self::program("zstd", &["-q", "-c", "-T0", "-"], "zstd", to),
            Compression::Xz => Self::program("xz", &["-c", "-T4", "-"], "xz-utils", to),
            Compression::Plain | Compression::Bzip2 => Ok(Self::Plain(to)),
        }
    }

    fn program(name: &'static str, arguments: &[&str], package: &str, to: File) -> Result<Self> {
        let mut command = Command::new(name);
        command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::piped()).stdout(to);
        match command.spawn() {
            Ok(child) => Ok(Self::Program(name, RunningProgram(child))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::new(format!("{name} is not installed"))
                    .with_hint(format!("install the package '{package}', or export as 'tar.gz'")))
            }
            Err(error) => Err(error).context(|| format!("cannot start {name}")),
        }
    }

    /// Completes the stream.
    ///
    /// # Errors
    /// Any write error, or a failure of the program.
    pub(super) fn finish(self) -> Result<()> {
        let writing = || "cannot write the export";
        match self {
            Self::Plain(mut to) => to.flush().context(writing),
            Self::Gzip(encoder) => encoder.finish().map(drop).context(writing),
            Self::Program(name, mut program) => {
                drop(program.0.stdin.take());
                let ended = program.0.wait().context(|| format!("cannot wait for {name}"))?;
                if ended.success() { Ok(()) } else { Err(Error::new(format!("{name} failed: {ended}"))) }
            }
        }
    }
}

impl Write for Encoder {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(to) => to.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Program(_, program) => match &mut program.0.stdin {
                Some(input) => input.write(bytes),
                None => Err(std::io::ErrorKind::BrokenPipe.into()),
            },
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(to) => to.flush(),
            // A flush in between would change the output.
            Self::Gzip(_) | Self::Program(..) => Ok(()),
        }
    }
}

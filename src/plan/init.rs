//! stub
use crate::error::Result;
use crate::machine::init::Init;
pub fn architecture(_b: &[u8]) -> Result<()> {
    Ok(())
}
pub fn recognise(_c: &[std::path::PathBuf], _b: &[u8]) -> Init {
    Init::Systemd
}
#[derive(Debug)]
pub enum StopAction {
    Signal(i32),
    WriteFifo { paths: Vec<std::path::PathBuf>, bytes: Vec<u8> },
    TouchExecutable { path: std::path::PathBuf },
}
pub fn orderly_stop(_i: Init, s: Option<i32>) -> Vec<StopAction> {
    vec![StopAction::Signal(s.unwrap_or(libc::SIGRTMIN() + 4))]
}
pub fn orderly_reboot(_i: Init) -> Vec<StopAction> {
    vec![StopAction::Signal(libc::SIGRTMIN() + 5)]
}

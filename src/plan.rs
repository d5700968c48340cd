//! What will be done to bring a machine up: the third stage, made of a machine and facts about the
//! host by pure functions. It must not touch the host.

pub mod filter;
pub mod init;

//! Front ends under the names of other programs: they parse the command line of the program and print in its
//! format. Called by `main`.

pub mod schroot;

//! Pierglass.
fn main() {}

//! Pierglass.

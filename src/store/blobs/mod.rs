//! How a blob gets in and out.

pub mod ingest;
pub mod partial;
pub mod progress;
pub mod reader;

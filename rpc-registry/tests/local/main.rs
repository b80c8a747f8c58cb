//! Registries that need no server: in a folder and in memory.

mod concurrent;
mod conformance;
mod file;
mod processes;
mod strangers;

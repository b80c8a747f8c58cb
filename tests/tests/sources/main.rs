//! Rules of the code that a look at the sources can check.

mod imports;
mod log_lines;

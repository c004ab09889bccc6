//! The core on a log in memory, on a clock that stands still while anything is to be done.

mod memory;

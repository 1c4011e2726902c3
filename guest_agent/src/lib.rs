//! What the two programs of this crate share: the executor of plans, and the system calls that the launcher uses too.
#![deny(unsafe_code)]

pub mod executor;
pub mod ops;
pub mod plan;
pub mod report;
pub mod slots;
pub mod sys;

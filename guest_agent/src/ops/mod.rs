//! What each operation does, by topic.

pub mod console;
pub mod copy_up;
pub mod credentials;
pub mod devices;
pub mod hooks;
pub mod mounts;
pub mod namespaces;
pub mod paths;
pub mod process;
pub mod procfs;
pub mod root;
pub mod staging;

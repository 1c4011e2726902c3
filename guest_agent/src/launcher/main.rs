//! pysandbox-launcher: what a caller starts as `pysandbox`.
#![deny(unsafe_code)]

fn main() {
    std::process::exit(1);
}

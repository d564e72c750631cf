//! The `walcast` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    println!("walcast {}", env!("CARGO_PKG_VERSION"));
    std::process::ExitCode::SUCCESS
}
